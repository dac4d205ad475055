"""Optuna's TPE, drawn by the seed and the run, whoever takes it."""

from __future__ import annotations

import numpy as np
from optuna import Study
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

from utils.studies.queue import run_of


class SeededTPE(TPESampler):
    """TPE that draws each trial by the seed and the run's number: processes draw differently.

    It also draws by the trials that have ended, and counts what others try as bad.
    """

    def __init__(self, seed: int) -> None:
        self._begin(seed)
        self._seed = seed

    def _begin(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, constant_liar=True)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin a trial anew."""
        run = run_of(trial) if trial.user_attrs else "0"
        self._begin(int(np.random.default_rng([self._seed, int(run)]).integers(2**32)))
