"""What an interrupted preparation left is used where it is vouched for, and else made again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from data.layout import SPLITS, STAGE
from data.preparing import moving, pipeline
from data.preparing.pipeline import prepare
from data.preparing.plan import Arrays, Text, decide
from data.text.encoder import TextEncoder
from system.errors import InputError
from tests.csd_files import random_dataset, write_dataset
from tests.preparation import SINGLE_PROCESS, Killed, prepare_killed_at, request


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
    asked = interrupted(pipeline, "cut_text")  # all is encoded
    JUNK[damage](asked.datadir / STAGE / name)
    prepare(asked, SINGLE_PROCESS)
    assert contents(asked.datadir) == contents(whole[0])


@pytest.mark.parametrize("damage", ["cut", "lost"])
@pytest.mark.parametrize("name", ["test/audio50.npy", "test/bert50.npy"])
def test_a_file_that_changed_before_it_was_moved_is_made_again(interrupted, whole, name, damage):
    asked = interrupted(moving, "move_into_place")
    JUNK[damage](asked.datadir / STAGE / name)
    prepare(asked, SINGLE_PROCESS)
    assert contents(asked.datadir) == contents(whole[0])
    assert not (asked.datadir / STAGE).exists()


@pytest.fixture
def killed_while_moving(whole, tmp_path):
    """Return how to be killed while a file is moved into place, and a maker of requests."""
    shutil.copytree(whole[0] / "csd", tmp_path / "csd")
    return prepare_killed_at, lambda bert: request(tmp_path, bert)


@pytest.mark.parametrize("is_forced", [False, True])
@pytest.mark.parametrize("wanted", ["none", "added", "kept"])
def test_after_a_kill_in_the_move_another_request_ends_as_if_undisturbed(
    whole, killed_while_moving, wanted, is_forced
):
    kill, ask = killed_while_moving
    with_text = ask(whole[1])
    kill(with_text if wanted == "kept" else ask(None), "train/segments.csv")
    asked = replace(ask(None) if wanted == "none" else with_text, is_forced=is_forced)
    prepare(asked, SINGLE_PROCESS)
    manifest = json.loads((asked.folder / "dataset.json").read_text())
    expected = json.loads((whole[0] / "dataset.json").read_text())
    names = contents(asked.folder).keys()
    assert manifest["rows"] == expected["rows"]
    assert manifest["bytes"] == {name: expected["bytes"][name] for name in names}
    assert ("train/bert50.npy" in names) is (wanted != "none")
    assert decide(replace(asked, is_forced=False)).is_done


def test_a_kill_while_only_text_is_moved_leaves_the_arrays_made(whole, killed_while_moving):
    kill, ask = killed_while_moving
    prepare(ask(None), SINGLE_PROCESS)
    asked = ask(whole[1])
    kill(asked, "val/bert50.npy")
    plan = decide(asked)
    assert (plan.arrays, plan.text) == (Arrays.KEEP, Text.KEEP)
    assert contents(asked.folder).keys() < contents(whole[0]).keys()
    prepare(asked, SINGLE_PROCESS)
    assert contents(asked.folder) == contents(whole[0])


def test_a_kill_while_other_arrays_replace_text_leaves_no_text_of_the_old(
    whole, killed_while_moving
):
    kill, ask = killed_while_moving
    asked = ask(whole[1])
    prepare(asked, SINGLE_PROCESS)
    write_dataset(asked.datadir / "csd", random_dataset(seed=3))
    kill(ask(None), "train/visual50.npy")
    prepare(ask(None), SINGLE_PROCESS)
    assert not list(asked.folder.glob("*/bert50.npy"))
    assert not list(asked.folder.glob("*/pieces50.npy"))


def test_an_interrupted_preparation_does_not_overwrite_arrays_of_another_program(interrupted):
    asked = interrupted(pipeline, "put_into_place")
    array = asked.folder / "train" / "visual50.npy"
    array.parent.mkdir()
    np.save(array, np.zeros(3))
    with pytest.raises(InputError, match=r"train/visual50.npy was not made by this program"):
        prepare(asked, SINGLE_PROCESS)
    assert len(np.load(array)) == 3


def test_the_manifest_keeps_sizes_and_no_stage(whole):
    manifest = json.loads((whole[0] / "dataset.json").read_text())
    assert "files" not in manifest
    assert manifest["bytes"] == {name: len(x) for name, x in contents(whole[0]).items()}
