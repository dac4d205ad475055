"""Files are old or new, never half; and the manifest, which is written so."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import tempfile
import threading
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from data.manifest import MANIFEST, read_manifest, write_manifest
from system import files
from system.errors import InputError
from system.files import (
    atomic_write,
    check_writable,
    file_facts,
    make_folder,
    move_file,
    read_dict,
    read_json,
    write_json,
)


def names(folder: Path):
    return sorted(path.name for path in folder.iterdir())


def test_the_new_content_comes_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_write_that_fails_names_the_file(tmp_path):
    """Python itself names the file only when opening fails."""
    with pytest.raises(OSError, match="too large") as caught, atomic_write(tmp_path / "a.txt"):
        raise OSError(errno.EFBIG, "File too large")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_a_write_that_fails_without_a_number_keeps_its_text(tmp_path):
    """As from NumPy on a full disk: with a name, Python would print only the name."""
    with pytest.raises(OSError, match="8 requested and 3 written"), atomic_write(tmp_path / "a"):
        raise OSError("8 requested and 3 written")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", ["old", None])
def test_the_old_content_stays_when_the_block_raises(tmp_path, error, old):
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half of the ne")
        raise error
    assert names(tmp_path) == (["a.txt"] if old else [])
    assert not old or path.read_text() == old


def test_the_old_content_stays_when_the_new_cannot_be_kept(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def forbid_moves_between_folders(monkeypatch):
    """Let each folder be a disk of its own."""
    rename = Path.replace

    def replace(self, target):
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.fixture
def source_and_target(tmp_path):
    """A file, and an older one in another folder that it is to replace."""
    source, target = tmp_path / "one" / "a.txt", tmp_path / "other" / "a.txt"
    for path, content in ((source, "new"), (target, "old")):
        path.parent.mkdir()
        path.write_text(content)
    return source, target


@pytest.mark.parametrize("has_two_disks", [False, True])
def test_a_file_moves_to_another_disk_too(source_and_target, monkeypatch, has_two_disks):
    source, target = source_and_target
    if has_two_disks:
        forbid_moves_between_folders(monkeypatch)
    move_file(source, target)
    assert target.read_text() == "new"
    assert (names(source.parent), names(target.parent)) == ([], ["a.txt"])


def test_a_move_to_another_disk_that_fails_keeps_both_files(source_and_target, monkeypatch):
    def full(source, target):
        target.write_text("n")
        raise OSError(errno.ENOSPC, "No space left on device")

    source, target = source_and_target
    forbid_moves_between_folders(monkeypatch)
    monkeypatch.setattr(files.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        move_file(source, target)
    assert (source.read_text(), target.read_text()) == ("new", "old")
    assert names(target.parent) == ["a.txt"]


def test_on_another_disk_the_content_is_whole_before_the_source_is_gone(
    source_and_target, monkeypatch
):
    source, target = source_and_target
    forbid_moves_between_folders(monkeypatch)
    events, unlink = record(monkeypatch), Path.unlink
    monkeypatch.setattr(
        Path, "unlink", lambda path, **options: (events.append(path.name), unlink(path, **options))
    )
    move_file(source, target)
    *copied, temporary, flushed, removed = events
    assert copied == ["name", "content", "name"]  # the first fails
    assert (temporary.endswith(".part.txt"), flushed, removed) == (True, "folder", "a.txt")


def test_a_move_that_fails_for_another_reason_is_told(source_and_target, monkeypatch):
    def refuse(self, target):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    source, target = source_and_target
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        move_file(source, target)
    assert (source.read_text(), target.read_text()) == ("new", "old")


def record(monkeypatch):
    """Return a list to which each flush of a file or folder, and each renaming, is added."""
    events, fsync, rename = [], os.fsync, Path.replace

    def flush(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content"
        events.append(kind)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", lambda *a: (events.append("name"), rename(*a))[1])
    return events


def test_the_content_is_on_the_disk_before_the_name_and_then_the_name(tmp_path, monkeypatch):
    events = record(monkeypatch)
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert events == ["content", "name", "folder"]


def test_the_names_of_new_folders_are_on_the_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "flush_folder", flushed.append)
    make_folder(tmp_path / "a" / "b")
    assert flushed == [tmp_path, tmp_path / "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(flushed) == 2


def test_a_file_system_that_flushes_no_folders(tmp_path, monkeypatch):
    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    write_json(tmp_path / "a.json", 1)
    assert json.loads((tmp_path / "a.json").read_text()) == 1


def test_two_writers_at_once_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as one:
        one.write_text("one")
        with atomic_write(path) as other:
            other.write_text("other")
        assert path.read_text() == "other"
        assert one.read_text() == "one"
    assert path.read_text() == "one"
    assert names(tmp_path) == ["a.txt"]


def test_a_kill_leaves_the_old_content_and_what_it_leaves_is_removed_later(tmp_path):
    path = tmp_path / "a[1].txt"
    path.write_text("old")
    another = tmp_path / ".b.0123456789ab.part.txt"
    another.write_text("of another file")
    child = os.fork()
    if not child:
        with atomic_write(path) as temporary:
            temporary.write_text("half of the ne")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.read_text() == "old"
    (leftover,) = (name for name in names(tmp_path) if name not in (path.name, another.name))
    write_json(path, 1)
    assert leftover in names(tmp_path)  # its writer may still run on another machine
    for old in (leftover, another.name):
        os.utime(tmp_path / old, (0, 0))
    write_json(path, 2)
    assert names(tmp_path) == sorted([path.name, another.name])


def test_a_block_that_writes_nothing_changes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert path.read_text() == "old"


def test_the_parent_is_made(tmp_path):
    path = tmp_path / "some" / "where" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_the_suffix_stays_for_writers_that_go_by_it(tmp_path):
    path = tmp_path / "a.npy"
    with atomic_write(path) as temporary:
        np.save(temporary, np.arange(3))
    np.testing.assert_array_equal(np.load(path), np.arange(3))
    assert names(tmp_path) == ["a.npy"]


@pytest.mark.parametrize("stem", ["a" * 251, "é" * 125, "\udcff" * 251])
def test_a_name_as_long_as_the_file_system_takes(tmp_path, stem):
    path = tmp_path / f"{stem}.txt"
    for content in ("old", "new"):
        with atomic_write(path) as temporary:
            temporary.write_text(content)
    assert path.read_text() == "new"
    assert names(tmp_path) == [path.name]


def test_json_is_legible(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"word": "café", "values": [1, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"word": "café", "values": [1, None]}
    assert path.read_text(encoding="utf-8").startswith('{\n  "word": "café"')


def test_a_value_that_is_no_json_leaves_the_old(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, {"path": path})
    assert json.loads(path.read_text()) == 1
    assert names(tmp_path) == ["a.json"]


def test_facts_tell_a_files_content_not_its_time(tmp_path):
    path = tmp_path / "a.csd"
    path.write_bytes(b"123")
    facts = file_facts(path)
    assert (facts["name"], facts["bytes"]) == ("a.csd", 3)
    os.utime(path, ns=(5, 7))
    assert json.loads(json.dumps(file_facts(path))) == facts
    path.write_bytes(b"124")
    assert file_facts(path) != facts
    with pytest.raises(InputError, match=f"No file {tmp_path / 'b.csd'}"):
        file_facts(tmp_path / "b.csd")
    with pytest.raises(InputError, match=f"^{os.devnull} is a folder, pipe or device; give"):
        file_facts(Path(os.devnull))


@pytest.mark.parametrize("offset", [0, 9_999_999])
def test_facts_sample_a_large_file(tmp_path, offset):
    path = tmp_path / "large"
    path.write_bytes(bytes(10_000_000))
    facts = file_facts(path)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"x")
    assert file_facts(path) != facts


def test_a_change_between_the_samples_shows_in_the_time(tmp_path, monkeypatch):
    path = tmp_path / "large"
    path.write_bytes(b"a" * 10_000_000)
    facts = file_facts(path, is_timed=True)
    assert file_facts(path, is_timed=True) == facts
    path.write_bytes(b"a" * 200_000 + b"b" + b"a" * 9_799_999)
    assert file_facts(path) == file_facts(path)
    assert file_facts(path)["sample"] == facts["sample"]
    assert file_facts(path, is_timed=True) != facts


def test_no_dict_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    assert read_dict(tmp_path / "run.json") is None


def test_a_name_that_is_no_utf8_survives(tmp_path):
    name = os.fsdecode(b"f\xfc\xdfe.pkl")
    write_json(tmp_path / "a.json", name)
    assert read_json(tmp_path / "a.json") == name


# ---------------------------------------------------------------- the manifest


EMPTY = {"made_from": {}, "splits": {}, "left_out": {}, "text": None}


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    manifest = {**EMPTY, "made_from": {"alignment": "segment"}}
    write_manifest(tmp_path, manifest)
    stored = read_manifest(tmp_path)
    assert manifest.items() <= stored.items()
    assert stored["made_with"]["numpy"] == np.__version__
    assert datetime.fromisoformat(stored["made_at"]).tzinfo
    assert names(tmp_path) == [MANIFEST]


def test_writing_a_manifest_again_renews_its_time_and_versions(tmp_path):
    old = {**EMPTY, "made_at": "then", "made_with": {"numpy": "0"}}
    write_manifest(tmp_path, old)
    manifest = read_manifest(tmp_path)
    assert manifest["made_at"] != "then"
    assert manifest["made_with"]["numpy"] == np.__version__


def test_no_manifest(tmp_path):
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b'{"made_from": ', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "is no manifest"),
        (b'"made_from"', "is no manifest"),
        (b'{"text": null}', "is no manifest"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, content, message):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path / MANIFEST) in str(caught.value)
    assert "prepare again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        check_writable(tmp_path)


def test_everything_is_flushed_at_once(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.touch()
    together, flushed, fsync = threading.Barrier(4, timeout=20), [], os.fsync

    def flush(descriptor):
        together.wait()
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    files.flush_all(paths, [tmp_path])
    assert sorted(flushed) == sorted(path.stat().st_ino for path in [*paths, tmp_path])


def test_what_cannot_be_flushed_is_told(tmp_path, monkeypatch):
    (tmp_path / "a").touch()

    def refuse(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    for paths in (([tmp_path / "a"], []), ([], [tmp_path])):
        with pytest.raises(OSError, match="Input/output error"):
            files.flush_all(*paths)


@pytest.mark.parametrize("wait", [0, 10**9])
def test_facts_follow_a_file_that_takes_anothers_place(tmp_path, monkeypatch, wait):
    """They are kept from one look to the next, but for the same file only."""
    monkeypatch.setattr(files, "_SETTLED_AFTER", wait)
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"one")
    other.write_bytes(b"two")
    before = file_facts(path)
    reads = files._digest_of_sample.cache_info().hits
    assert file_facts(path) == before
    assert files._digest_of_sample.cache_info().hits == reads + (wait == 0)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    assert file_facts(path)["sample"] != before["sample"]
