"""Evaluation and prediction called from Python without a checkpoint."""

from __future__ import annotations

import pytest

from system.errors import InputError
from tests.data.loading.test_split import on_cpu
from utils import RunConfig
from utils.reports.evaluate_checkpoint import evaluate_checkpoint
from utils.reports.predict_path import predict_path
from utils.reports.robustness import measure_robustness
from utils.training.dry_run import dry_run_evaluation


@pytest.mark.parametrize(
    "work",
    [
        lambda config, options: evaluate_checkpoint(config, "test", options),
        lambda config, options: dry_run_evaluation(config, "test", options),
        lambda config, options: predict_path(config, config.datadir, None, options),
        lambda config, options: measure_robustness(config, "test", options, []),
    ],
)
def test_one_line_says_that_a_checkpoint_is_needed(small, tmp_path, work):
    config = RunConfig(datadir=small, resultdir=tmp_path / "result")
    with pytest.raises(InputError, match=r"^No checkpoint is given; give"):
        work(config, on_cpu(2))
    assert not config.resultdir.exists()
