"""What a training gets from its configuration: the loss, the model, and errors and warnings."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.checkpoint import write_checkpoint
from system.errors import InputError
from tests.own_model import OWN_MODEL
from utils import run_config
from utils.run_config import AS_PREPARED, RunConfig
from utils.running import setup
from utils.running.setup import find_task, open_training
from utils.tasks import LOSSES, SENTIMENT

PREDICTIONS, TARGETS = torch.tensor([[3.0], [0.5]]), torch.tensor([[1.0], [1.0]])


@pytest.mark.parametrize(
    ("loss", "expected"), [("mse", [4.0, 0.25]), ("l1", [2.0, 0.5]), (None, [4.0, 0.25])]
)
def test_the_configuration_chooses_the_loss(small, loss, expected):
    *_, task = open_training(RunConfig(datadir=small, model="lf_dnn", loss=loss))
    assert task.loss(PREDICTIONS, TARGETS).flatten().tolist() == expected
    assert task.score is SENTIMENT.score


def test_every_loss_of_the_configuration_exists():
    assert tuple(LOSSES) == run_config.LOSSES


def test_a_training_says_what_the_model_leaves_out(small, capsys):
    open_training(RunConfig(datadir=small, set={"modalities": "text,audio"}))
    assert capsys.readouterr().out == "nhfnet leaves out: visual, aggregation tokens\n"
    open_training(RunConfig(datadir=small))
    assert capsys.readouterr().out == ""


def test_a_file_of_another_alignment_brings_a_warning(small, tmp_path):
    shutil.copytree(small, tmp_path / "data")
    path = tmp_path / "data/test/audio50.npy"
    np.save(path, np.load(path)[:, :4])
    message = r"test: audio has 4 rows a segment, .*train has 6; check that .* the same alignment"
    with pytest.warns(UserWarning, match=message):
        open_training(RunConfig(datadir=tmp_path / "data", model="lf_dnn"))


@pytest.fixture
def trained(small, tmp_path):
    """A checkpoint that fits the data, and its model."""
    _, _, model, _ = open_training(RunConfig(datadir=small, model="lf_dnn", set={"dropout": 0.3}))
    write_checkpoint(tmp_path / "a.pth", model, "lf_dnn", task="sentiment")
    return tmp_path / "a.pth", model


def test_a_training_starts_from_a_checkpoints_model_and_weights(small, trained):
    path, model = trained
    config, _, opened, _ = open_training(RunConfig(datadir=small, checkpoint=path, seed=7))
    assert (config.model, opened.config) == ("lf_dnn", model.config)
    for name, weight in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], weight)


def test_settings_beside_a_checkpoints_own_are_refused(small, trained):
    config = RunConfig(datadir=small, checkpoint=trained[0], set={"dropout": 0.5})
    with pytest.raises(InputError, match="--set goes without --checkpoint, which has its model"):
        open_training(config)


def test_a_checkpoint_of_other_outputs_is_refused(small, trained):
    path, model = trained
    two = type(model)(model.config, dict(model.widths), 2)
    write_checkpoint(path, two, "lf_dnn", task="sentiment")
    with pytest.raises(InputError, match=r"a.pth has 2 outputs, but the task sentiment has 1"):
        open_training(RunConfig(datadir=small, checkpoint=path))


def test_an_own_model_whose_checkpoint_could_not_be_read_is_not_trained(small, tmp_path):
    (tmp_path / "mine.py").write_text(
        OWN_MODEL.replace(
            "self.net = nn.Sequential(", "self.extra = Extra(); self.net = nn.Sequential("
        )
        + "\n\nclass Extra(nn.Module):\n    def get_extra_state(self):\n        return 1\n"
    )
    config = RunConfig(datadir=small, model=f"{tmp_path / 'mine.py'}:Mean")
    with pytest.raises(InputError, match=r"a checkpoint cannot hold extra\._extra_state \(int\)"):
        open_training(config)
    open_training(replace(config, save=False))  # which needs no checkpoint


def test_an_own_model_is_trained_further_with_its_text_encoder(demo, tmp_path):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    config = RunConfig(datadir=demo, model=f"{tmp_path / 'mine.py'}:Mean")
    *_, model, _ = open_training(replace(config, finetune_bert=AS_PREPARED))
    write_checkpoint(tmp_path / "a.pth", model, config.model_name, task="sentiment")
    *_, again, _ = open_training(replace(config, checkpoint=tmp_path / "a.pth"))
    weights = again.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("batch_size", [16, 20, 22])
@pytest.mark.parametrize("workers", [0, 1])
def test_one_segment_is_predicted_alone_where_one_is_left_to_score(
    small, tmp_path, workers, batch_size
):
    """Of 21 or 23 segments; without loading processes, evaluation batches are larger."""
    text = OWN_MODEL.rstrip() + ".squeeze()[:, None]\n"
    (tmp_path / "mine.py").write_text(text)
    model = f"{tmp_path / 'mine.py'}:Mean"
    config = RunConfig(datadir=small, model=model, num_workers=workers, batch_size=batch_size)
    if workers and batch_size > 16:
        with pytest.raises(InputError, match=r"does not predict one segment alone \(IndexError"):
            open_training(config)
    else:
        open_training(config)


def test_an_unknown_task_of_a_checkpoint_is_refused_with_the_files_name(small, trained):
    path, model = trained
    write_checkpoint(path, model, "lf_dnn", task="mood")
    message = r"^.*a.pth: task 'mood': there is no such task, only sentiment"
    with pytest.raises(InputError, match=message):
        open_training(RunConfig(datadir=small, checkpoint=path))


def test_a_gpu_evaluates_in_large_batches_with_any_number_of_workers(small, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN_MODEL.rstrip() + ".squeeze()[:, None]\n")
    monkeypatch.setattr(setup, "pick_device", lambda name: torch.device("cuda"))
    model = f"{tmp_path / 'mine.py'}:Mean"
    open_training(RunConfig(datadir=small, model=model, num_workers=1, batch_size=20))


def test_an_unknown_task_is_refused():
    with pytest.raises(InputError, match="--task mood: there is no such task, only sentiment"):
        find_task("mood", "mosei")
