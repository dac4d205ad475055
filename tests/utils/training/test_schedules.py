"""Learning-rate schedules."""

from __future__ import annotations

import torch

from utils.run_config import RunConfig
from utils.training.optimizer import make_scheduler, step_plateau


def rates_after(scores, **settings):
    """Return the learning rate after each epoch with these validation scores."""
    config = RunConfig(lr=1.0, **settings)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
    schedule, rates = make_scheduler(config, optimizer), []
    for score in scores:
        optimizer.step()
        step_plateau(schedule, score)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_plateau_halves_after_more_than_two_epochs_that_are_no_better():
    assert rates_after([0.5, 0.6, 0.5, 0.5, 0.4], scheduler="plateau") == [1.0, 1.0, 1.0, 0.5, 0.5]


def test_plateau_has_a_factor_and_a_patience():
    settings = {"scheduler": "plateau", "plateau_factor": 0.25, "plateau_patience": 0}
    assert rates_after([0.5, 0.5, 0.4, 0.5], **settings) == [1.0, 0.25, 0.25, 0.0625]


def test_plateau_takes_negated_scores_which_are_negative():
    """As of a task whose higher scores are better."""
    settings = {"scheduler": "plateau", "plateau_factor": 0.5, "plateau_patience": 0}
    scores = [0.1, -0.5, -0.5, -0.6, -0.59]
    assert rates_after(scores, **settings) == [1.0, 1.0, 0.5, 0.5, 0.25]
