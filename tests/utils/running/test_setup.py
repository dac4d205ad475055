"""From a configuration to the task that a training works with."""

from __future__ import annotations

import pytest
import torch

from utils import run_config
from utils.run_config import RunConfig
from utils.running.setup import open_training
from utils.tasks import LOSSES, SENTIMENT

PREDICTIONS, TARGETS = torch.tensor([[3.0], [0.5]]), torch.tensor([[1.0], [1.0]])


@pytest.mark.parametrize(
    ("loss", "expected"), [("mse", [4.0, 0.25]), ("l1", [2.0, 0.5]), (None, [4.0, 0.25])]
)
def test_the_configuration_chooses_the_loss(small, loss, expected):
    *_, task = open_training(RunConfig(datadir=small, model="lf_dnn", loss=loss))
    assert task.loss(PREDICTIONS, TARGETS).flatten().tolist() == expected
    assert task.score is SENTIMENT.score


def test_every_loss_of_the_configuration_is_there():
    assert tuple(LOSSES) == run_config.LOSSES


def test_a_training_says_what_the_model_leaves_out(small, capsys):
    open_training(RunConfig(datadir=small, set={"modalities": "text,audio"}))
    assert capsys.readouterr().out == "nhfnet leaves out: visual, aggregation tokens\n"
    open_training(RunConfig(datadir=small))
    assert capsys.readouterr().out == ""
