"""The command that messages name prepares the dataset that is there, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.fetching.command import preparation_command
from data.loading.split import Split
from data.preparing.pickle_source import PickleSource
from data.preparing.pipeline import prepare
from data.preparing.request import Request
from system.errors import InputError
from tests.csd_files import random_dataset, write_dataset
from tests.data.preparing.test_sources import write_pickle
from tests.preparation import SINGLE_PROCESS, demo_request, request

AS_BEFORE = "the other options as before"


def made_from(dataset="CMU-MOSEI", alignment="segment", **others):
    return {"made_from": {"dataset": dataset, "alignment": alignment, "folds": {}, **others}}


@pytest.mark.parametrize(
    ("folder", "manifest", "command"),
    [
        ("d", None, "--datadir d"),
        ("d/word", None, "--datadir d --alignment word"),
        ("-d/word", None, "--datadir ./-d --alignment word"),
        ("a b/c", None, "--datadir 'a b/c'"),
        ("a b/word", None, "--datadir 'a b' --alignment word"),
        ("d", made_from(), f"--datadir d --dataset mosei, with {AS_BEFORE}"),
        ("d", made_from("CMU-MOSI"), f"--datadir d --dataset mosi, with {AS_BEFORE}"),
        (
            "d/unaligned",
            made_from(alignment="unaligned"),
            f"--datadir d --alignment unaligned --dataset mosei, with {AS_BEFORE}",
        ),
        ("d/word", made_from(), f"--datadir d/word --dataset mosei, with {AS_BEFORE}"),
        (
            "d/word",  # a folder of the user's, for a pickle that is aligned by word
            {"made_from": {"dataset": "mosi", "alignment": "word", "uses_own_text": True}},
            f"--datadir d/word, with --from and {AS_BEFORE}",
        ),
    ],
)
def test_the_manifest_tells_what_the_dataset_was_made_from(folder, manifest, command):
    assert preparation_command(Path(folder), manifest) == f"dataset_prep.py {command}"


def refusal_of_half_moved(asked, monkeypatch):
    """Let a preparation die while it moves, and return what opening a split says then."""
    replace = Path.replace

    def die_at_the_table(self, target):
        if self.name == "segments.csv":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die_at_the_table)
        with pytest.raises(KeyboardInterrupt):
            prepare(asked, SINGLE_PROCESS)
    with pytest.raises(InputError) as caught:
        Split(asked.folder / "test")
    return str(caught.value)


def test_a_half_moved_demo_is_completed_by_the_command_that_is_printed(
    program, demo, tmp_path, monkeypatch
):
    (tmp_path / "csd").symlink_to(demo / "csd")
    (tmp_path / "demo_bert").symlink_to(demo / "demo_bert")
    message = refusal_of_half_moved(demo_request(tmp_path, None), monkeypatch)
    options = f"--datadir {tmp_path} --demo"
    assert f"run it again (dataset_prep.py {options}, with {AS_BEFORE})." in message
    done = program("dataset_prep.py", *options.split(), "--no_bert")
    assert done.returncode == 0, done.stderr


def test_a_half_moved_pickle_is_not_taken_for_csd_files(tmp_path, monkeypatch):
    write_pickle(tmp_path / "file.pkl")
    source = PickleSource(tmp_path / "file.pkl", uses_own_text=True)
    asked = Request(tmp_path / "word", "segment", source, None)
    message = refusal_of_half_moved(asked, monkeypatch)
    assert f"--datadir {tmp_path / 'word'}, with --from and {AS_BEFORE})." in message


def test_a_changed_table_names_the_alignment_of_its_dataset(tmp_path):
    write_dataset(tmp_path / "csd", random_dataset())
    asked = request(tmp_path, None, alignment="word")
    prepare(asked, SINGLE_PROCESS)
    for split in ("train", "val", "test"):
        (asked.folder / split / "bert50.npy").symlink_to("visual50.npy")
    table = asked.folder / "train" / "segments.csv"
    header, *rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join([header, *rows[::-1]]))
    with pytest.raises(InputError, match=f"--datadir {tmp_path} --alignment word --dataset mosei"):
        Split(asked.folder / "train")
