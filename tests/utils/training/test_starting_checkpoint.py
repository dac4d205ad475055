"""A training that starts from a checkpoint is resumed as what it is."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from models.checkpoint import read_checkpoint
from system.errors import InputError
from system.files import whole_digest
from tests.own_model import OWN_MODEL
from tests.programs.test_runs import TRAIN
from tests.utils.training.test_resume import assert_same, stop_at_step

STOPPED_AT = 2  # steps, of three an epoch


@pytest.fixture
def train(main, small):
    """Train: `train("folder", "--lr", 0.1)`, in tmp_path."""

    def run(folder, *options):
        paths = ["--datadir", small, "--checkpointdir", folder, "--resultdir", "result"]
        main(*(option for option in TRAIN if option not in ("--model", "lf_dnn")), *paths, *options)

    return run


@pytest.fixture
def pre(train, tmp_path):
    """A checkpoint to start from, with settings that are not the model's defaults."""
    train("pre", "--model", "lf_dnn", "--set", "dropout=0.3")
    return tmp_path / "pre" / "best.pth"


def stop(train, monkeypatch, *options):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at_step(patch, STOPPED_AT)
        train("run", "--save_every", 1, *options)


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_stopped_within_an_epoch_it_ends_bit_for_bit_the_same(train, pre, tmp_path, monkeypatch):
    train("whole", "--checkpoint", pre)
    stop(train, monkeypatch, "--checkpoint", pre)
    train("run", "--checkpoint", pre, "--resume", "auto")
    resumed, whole = (
        vars(read_checkpoint(tmp_path / name / "best.pth")) for name in ("run", "whole")
    )
    del resumed["path"], whole["path"]
    assert_same(resumed, whole)
    assert record(tmp_path / "run")["config"]["checkpoint"] == str(pre)
    assert record(tmp_path / "run")["checkpoint_digest"] == whole_digest(pre)
    assert record(tmp_path / "pre")["checkpoint_digest"] is None
    train("run", "--config", tmp_path / "run" / "run.json", "--resume", "auto")


@pytest.mark.parametrize("is_saved", [True, False])
def test_without_its_checkpoint_it_is_refused(train, pre, tmp_path, monkeypatch, is_saved):
    stop(train, monkeypatch, "--checkpoint", pre)
    last = tmp_path / "run" / "last.pth"
    if not is_saved:
        last.unlink()
    message = rf"run.json says that the run started from --checkpoint {pre}; give it again"
    for options in ([], ["--dry_run"]):
        with pytest.raises(InputError, match=message):
            train("run", "--model", "lf_dnn", "--resume", "auto", *options)
    if is_saved:
        moved = shutil.copy(last, tmp_path)  # away from its run.json
        same_settings = ("--model", "lf_dnn", "--set", "dropout=0.3")
        with pytest.raises(InputError, match=r"starting checkpoint of digest \w{12}, this is none"):
            train("new", *same_settings, "--resume", moved)


def test_another_checkpoint_is_refused(train, pre, tmp_path, monkeypatch):
    stop(train, monkeypatch, "--checkpoint", pre)
    other = tmp_path / "pre" / "last.pth"  # of other content
    digests = rf"{whole_digest(pre)[:12]}, this is {whole_digest(other)[:12]}"
    with pytest.raises(InputError, match=f"trained with starting checkpoint of digest {digests}"):
        train("run", "--checkpoint", other, "--resume", "auto")


def test_an_older_file_does_not_say_where_it_started(train, pre, tmp_path, monkeypatch):
    stop(train, monkeypatch, "--checkpoint", pre)
    content = torch.load(tmp_path / "run" / "last.pth")
    del content["training"]["must_match"]["starting checkpoint of digest"]
    torch.save(content, tmp_path / "run" / "last.pth")
    train("run", "--checkpoint", pre, "--resume", "auto")


def test_an_own_model_that_was_edited_is_refused(train, tmp_path, monkeypatch):
    own = tmp_path / "mine.py"
    own.write_text(OWN_MODEL)
    options = ("--model", f"{own}:Mean")
    stop(train, monkeypatch, *options)
    before = whole_digest(own)[:12]
    own.write_text(OWN_MODEL.replace("nn.ReLU", "nn.Tanh"))
    digests = rf"model file of digest {before}, this is {whole_digest(own)[:12]}"
    with pytest.raises(InputError, match=f"last.pth was trained with {digests}"):
        train("run", *options, "--resume", "auto")
    last = tmp_path / "run" / "last.pth"
    content = torch.load(last)
    del content["training"]["must_match"]["model file of digest"]  # as older files
    torch.save(content, last)
    train("run", *options, "--resume", "auto")


def test_seeds_go_on_from_their_checkpoint(train, pre, tmp_path):
    train("run", "--checkpoint", pre, "--seeds", 1)
    with pytest.raises(InputError, match=r"seed1/run.json says that the run started from"):
        train("run", "--model", "lf_dnn", "--seeds", 2, 1, "--resume", "auto")
    assert not (tmp_path / "run" / "seed2").exists()
    train("run", "--checkpoint", pre, "--seeds", 1, 2, "--resume", "auto")
    for seed in (1, 2):
        assert record(tmp_path / "run" / f"seed{seed}")["checkpoint_digest"] == whole_digest(pre)
