"""A hyperparameter search: its trials are chosen and judged by the validation split alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import optuna
from optuna.distributions import json_to_distribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from data.loading.options import LoaderOptions
from data.loading.split import Split
from system.config import make_config, plain_values
from system.console import print_heading, print_line
from system.errors import InputError
from system.processes import SINGLE_PROCESS
from utils.run_config import RunConfig
from utils.running.setup import find_task, make_options, open_training
from utils.studies.queue import Queue, RunFailed, recorded, run_of, seconds_of
from utils.studies.run_states import digests_without_data
from utils.studies.runs import refuse_run
from utils.studies.space import Space, plain_space, suggest, value_text, with_values
from utils.studies.storage import Storage, explain_damage
from utils.tasks import Measure, Task
from utils.training.history import Epoch
from utils.training.run import train_and_validate

NAME = "search"
_SPLITS = ("train", "val")  # never the test split
_FIRST_UNPRUNED = 5  # trials before any is pruned; none is pruned after its first epoch
CHOSEN = "tuned"  # folder of the final runs, for which the test split is opened


class SeededTPE(TPESampler):
    """TPE with a random generator per trial, seeded by the seed and the run's number.

    So processes draw differently. `constant_liar` counts running trials of other processes as bad.
    """

    def __init__(self, seed: int) -> None:
        self._reset(seed)
        self._seed = seed

    def _reset(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, constant_liar=True)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Reset the random generator for a trial."""
        run = run_of(trial) if trial.user_attrs else "0"
        self._reset(int(np.random.default_rng([self._seed, int(run)]).integers(2**32)))


@dataclass(frozen=True)
class Search:
    """A search in `space`, where `config` has all other settings and the folder of the search.

    `config` names its task and model explicitly. `local_settings` are those of this machine that
    replace the configuration's, such as its device.
    """

    config: RunConfig
    space: Space
    local_settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The splits that a search uses, by name."""
        return {name: Split(self.config.data_folder / name) for name in _SPLITS}

    @cached_property
    def task(self) -> Task:
        """The task of the trials."""
        scores = self.splits["train"].scores
        return find_task(self.config.task_name, scores, self.config.loss)

    @property
    def identity(self) -> dict[str, Any]:
        """Settings, space and digests that must be the same in all processes of the search."""
        spaces = {f"space of {name}": text for name, text in plain_space(self.space).items()}
        digests = {f"{name} data": split.digest for name, split in self.splits.items()}
        return {**self.config.outcome, **spaces, **digests, **digests_without_data(self.config)}

    def open(self, storage: Storage) -> Queue:
        """Return the queue of its trials, created when missing.

        Raises InputError when the folder holds another search.
        """
        measure = self.task.chosen_by
        study = storage.create(
            NAME,
            self.identity,
            {"config": plain_values(self.config), "space": plain_space(self.space)},
            direction="minimize" if measure.lower_is_better else "maximize",
            sampler=SeededTPE(self.config.seed),
            pruner=MedianPruner(n_startup_trials=_FIRST_UNPRUNED, n_warmup_steps=2),
        )
        return Queue(study, storage)

    def work(self, queue: Queue, count: int, after: Callable[[], None]) -> None:
        """Take trials until all have ended; after each, print the progress and call `after`."""

        def report_progress() -> None:
            print_line(progress_line(queue, self.task.chosen_by, count))
            after()

        run_trial = partial(self._run_trial, count=count)
        queue.work(run_trial, check=lambda _: self.check(), after=report_progress)

    def options(self, config: RunConfig) -> LoaderOptions:
        """Return the options with which this machine runs a trial of a configuration."""
        return make_options(replace(config, **self.local_settings), SINGLE_PROCESS)

    def check(self) -> None:
        """Raise InputError when device, model, BERT or data would make every trial fail here.

        It is also raised when a split has changed since the search began, and when the folder
        holds a run.
        """
        refuse_run(self.config.checkpointdir)
        self.options(self.config)
        with redirect_stdout(None):  # each trial prints this itself
            open_training(self.config, _SPLITS)
        for split in self.splits.values():
            if Split(split.folder).digest != split.digest:
                raise InputError(f"{split.folder} has changed; start a new search.")

    def _run_trial(self, trial: optuna.Trial, count: int) -> float:
        values = suggest(trial, self.space)
        text = ", ".join(f"{name} {value_text(value)}" for name, value in values.items())
        print_heading(f"Trial {trial.user_attrs['run']} of {count}: {text}")
        measure = self.task.chosen_by

        def report(epoch: Epoch) -> None:
            value = epoch.scores["val"][measure.key]
            if not math.isfinite(value):
                raise RunFailed(f"the validation {measure.name} is {value}")
            trial.report(value, epoch.number)
            if epoch.number < config.epochs and trial.should_prune():
                print_line(f"Pruned: worse than the median of trials at epoch {epoch.number}")
                raise optuna.TrialPruned

        config = replace(with_values(self.config, values), save=False)
        try:
            best = train_and_validate(config, self.options(config), report)
        except InputError as error:
            self.check()  # raises an error that all trials would have
            raise RunFailed(str(error)) from error
        return best.scores["val"][measure.key]


def find_search(storage: Storage, local_settings: Mapping[str, Any]) -> tuple[Search, Queue]:
    """Return the search in a storage and the queue of its trials, with this machine's settings.

    Raises InputError when it cannot be read, or when the data here are not those of the search.
    """
    study = storage.load(NAME)
    with explain_damage(storage):
        folder = {"checkpointdir": str(storage.folder)}
        values = {**study.user_attrs["config"], **folder, **recorded(local_settings)}
        config = make_config(RunConfig, values, storage.where)
        space = {
            name: json_to_distribution(text) for name, text in study.user_attrs["space"].items()
        }
    search = Search(config, space, local_settings)
    return search, search.open(storage)


def ended_runs(queue: Queue) -> set[str]:
    """Return the names of the runs that have ended and are not enqueued again."""
    return {run_of(trial) for trial in queue.trials} - set(queue.open_runs)


def progress_line(queue: Queue, measure: Measure, count: int) -> str:
    """Return as text how many of `count` trials have ended, the best so far, and the time left."""
    trials, ended = queue.trials, len(ended_runs(queue))
    parts = [f"{ended} of {count} trials have ended"]
    best = queue.best
    if best is not None and best.value is not None:
        parts.append(
            f"best validation {measure.name} {measure.text(best.value)}, trial {run_of(best)}"
        )
    times = [seconds for trial in trials if (seconds := seconds_of(trial)) is not None]
    if times and ended < count:
        at_once = sum(trial.state == TrialState.RUNNING for trial in trials) + 1
        seconds_left = (count - ended) / at_once * sum(times) / len(times)
        parts.append(f"about {duration_text(seconds_left)} left")
    return "; ".join(parts)


def duration_text(seconds: float) -> str:
    """Return a time as text, in days, hours, minutes or seconds."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
