"""What a manifest lists is on the disk: files and names are flushed before it is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.layout import SPLITS
from data.preparing.pickle_source import PickleSource
from data.preparing.pipeline import prepare
from data.preparing.request import Request
from tests.csd_files import random_dataset, write_dataset
from tests.data.preparing.test_sources import write_pickle
from tests.preparation import SINGLE_PROCESS, request


@pytest.fixture
def watched(monkeypatch):
    """Check, whenever a manifest gets its name, what lies beside it; returns how often."""
    fsync, rename, make = os.fsync, Path.replace, Path.mkdir
    flushed, manifests, with_new_folders = {}, [], set()

    def state(path):
        """Say which file or folder that is, and when its content or its names last changed."""
        status = path.stat()
        return status.st_ino, status.st_mtime_ns

    def flush(descriptor):
        fsync(descriptor)
        status = os.fstat(descriptor)
        flushed[status.st_ino] = status.st_mtime_ns
        with_new_folders.discard(status.st_ino)

    def mkdir(self, *options, **more):
        is_new = not self.exists()
        make(self, *options, **more)
        if is_new:
            with_new_folders.add(self.parent.stat().st_ino)

    def replace(self, target):
        if target.name == "dataset.json":
            manifests.append(target)
            folders = [target.parent / split for split in SPLITS]
            files = [path for folder in folders for path in folder.iterdir()]
            assert files
            for path in [*folders, *files, self]:
                inode, changed = state(path)
                assert flushed.get(inode) == changed, path
            # The folders' own names too, as far as they are new.
            assert target.parent.stat().st_ino in flushed
            assert target.parent.stat().st_ino not in with_new_folders
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    return manifests


def test_with_text_and_in_another_alignment(tmp_path, demo, watched):
    write_dataset(tmp_path / "csd", random_dataset())
    bert = str(demo / "demo_bert")
    prepare(request(tmp_path, bert), SINGLE_PROCESS)
    staged, final = tmp_path / ".preparing" / "dataset.json", tmp_path / "dataset.json"
    assert watched == [staged, staged, final]
    prepare(request(tmp_path, bert, alignment="unaligned", lengths=(7, 9)), SINGLE_PROCESS)
    assert len(watched) == 6


def test_text_that_comes_later(tmp_path, demo, watched):
    write_dataset(tmp_path / "csd", random_dataset())
    for bert in (None, str(demo / "demo_bert")):
        prepare(request(tmp_path, bert), SINGLE_PROCESS)
    # New audio, the same sentences: the text is taken over.
    data = random_dataset()
    for video, (intervals, features) in data["audio"].items():
        data["audio"][video] = intervals, features + 1
    write_dataset(tmp_path / "csd", data)
    assert prepare(request(tmp_path, None), SINGLE_PROCESS)["text"] is not None
    assert len(watched) == 3 + 2 + 3


def test_a_file_system_without_links(tmp_path, demo, watched, monkeypatch):
    def refuse(*_):
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    test_with_text_and_in_another_alignment(tmp_path, demo, watched)


def test_a_pickle_with_its_own_text(tmp_path, watched):
    write_pickle(tmp_path / "file.pkl")
    source = PickleSource(tmp_path / "file.pkl", uses_own_text=True)
    prepare(Request(tmp_path / "new", "segment", source, None), SINGLE_PROCESS)
    assert len(watched) == 3
