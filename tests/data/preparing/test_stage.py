"""What an interrupted preparation left is used where it is vouched for, and else made again."""

from __future__ import annotations

import json
import shutil

import pytest

from data.layout import SPLITS, STAGE
from data.preparing import pipeline
from data.preparing.pipeline import prepare
from data.preparing.plan import Arrays, decide
from data.text.encoder import TextEncoder
from tests.csd_files import random_dataset, write_dataset
from tests.preparation import SINGLE_PROCESS, request


class Killed(BaseException):
    """Ends the preparation as a kill would: nothing else catches it."""


def die(*_, **__):
    raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory, demo):
    """A dataset's folder, prepared; what is in the splits then; and how to ask for it."""
    datadir = tmp_path_factory.mktemp("whole")
    write_dataset(datadir / "csd", random_dataset())
    bert = str(demo / "demo_bert")
    prepare(request(datadir, bert), SINGLE_PROCESS)
    return datadir, bert


def contents(datadir):
    return {
        f"{split}/{path.name}": path.read_bytes()
        for split in SPLITS
        for path in (datadir / split).iterdir()
    }


@pytest.fixture
def interrupted(whole, tmp_path, monkeypatch):
    """Interrupt a preparation: `interrupted(owner, function)`; returns how to ask again."""

    def interrupt(owner, function):
        shutil.copytree(whole[0] / "csd", tmp_path / "csd")
        asked = request(tmp_path, whole[1])
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, die)
            with pytest.raises(Killed):
                prepare(asked, SINGLE_PROCESS)
        return asked

    return interrupt


JUNK = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: min(1000, path.stat().st_size // 2)]),
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
    "junk": lambda path: path.write_bytes(b"junk"),
    "empty": lambda path: path.write_bytes(b""),
    "lost": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", ["train/visual50.npy", "dataset.json"])
@pytest.mark.parametrize("damage", JUNK)
def test_a_staged_array_that_has_changed_is_made_again(interrupted, whole, name, damage):
    asked = interrupted(TextEncoder, "start")
    assert decide(asked).arrays is Arrays.RESUME
    JUNK[damage](asked.datadir / STAGE / name)
    assert decide(asked).arrays is Arrays.MAKE
    prepare(asked, SINGLE_PROCESS)
    assert contents(asked.datadir) == contents(whole[0])


@pytest.mark.parametrize("damage", ["cut", "lost"])
@pytest.mark.parametrize("name", ["text.json", "train/bert50.npy", "train/bert50.npy.done"])
def test_staged_text_that_has_changed_is_encoded_again(interrupted, whole, name, damage):
    asked = interrupted(pipeline, "_remove_old_text")  # all is encoded
    JUNK[damage](asked.datadir / STAGE / name)
    prepare(asked, SINGLE_PROCESS)
    assert contents(asked.datadir) == contents(whole[0])


@pytest.mark.parametrize("damage", ["cut", "lost"])
@pytest.mark.parametrize("name", ["test/audio50.npy", "test/bert50.npy"])
def test_a_file_that_changed_before_it_was_moved_is_made_again(interrupted, whole, name, damage):
    asked = interrupted(pipeline, "_move_into_place")
    JUNK[damage](asked.datadir / STAGE / name)
    prepare(asked, SINGLE_PROCESS)
    assert contents(asked.datadir) == contents(whole[0])
    assert not (asked.datadir / STAGE).exists()


def test_the_manifest_keeps_sizes_and_no_stage(whole):
    manifest = json.loads((whole[0] / "dataset.json").read_text())
    assert "files" not in manifest
    assert manifest["bytes"] == {name: len(x) for name, x in contents(whole[0]).items()}
