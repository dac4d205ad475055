"""Optuna's TPE, drawn by the seed and the run: whoever takes a run, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from utils.studies.queue import run_of


class SeededTPE(BaseSampler):
    """A TPE for each trial, so that a search that goes on draws as one that never stopped.

    Several processes draw differently too. A parallel one counts what others try as bad.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._tpe = seed, TPESampler()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Begin a trial."""
        run = run_of(trial) if trial.user_attrs else "0"
        drawn = np.random.default_rng([self._seed, int(run)]).integers(2**32)
        self._tpe = TPESampler(seed=int(drawn), multivariate=True, constant_liar=True)
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw what is drawn together."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one value."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """End a trial."""
        self._tpe.after_trial(study, trial, state, values)
