"""A search for settings: trials that are chosen and judged on the validation split alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from utils.running.text_encoder import bert_in_folder
from utils.studies.plan import recorded
from utils.studies.queue import Queue, RunFailed, run_of, seconds_of
from utils.studies.space import Space, plain_space, suggest, value_text, with_values
from utils.studies.storage import Storage, damaged_study
from utils.tasks import Measure, Task
from utils.training.history import Epoch
from utils.training.run import train_and_validate

NAME = "search"
_LOOKED_AT = ("train", "val")  # and never the test split
_UNPRUNED = 5  # trials before any is pruned, and none is after its first epoch
CHOSEN = "tuned"  # the folder of the runs that the test split is opened for


class SeededTPE(TPESampler):
    """TPE that draws each trial by the seed and the run's number: processes draw differently.

    It also draws by the trials that have ended, and counts what others try as bad.
    """

    def __init__(self, seed: int) -> None:
        self._begin(seed)
        self._seed = seed

    def _begin(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, constant_liar=True)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Begin a trial anew."""
        run = run_of(trial) if trial.user_attrs else "0"
        self._begin(int(np.random.default_rng([self._seed, int(run)]).integers(2**32)))


@dataclass(frozen=True)
class Search:
    """What is searched: around which configuration, whose folder is the search's, in which space.

    Of a configuration that says nothing else, task and model have their names. `given` are this
    machine's settings, as far as it has its own.
    """

    config: RunConfig
    space: Space
    given: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The splits that a search looks at."""
        return {name: Split(self.config.data_folder / name) for name in _LOOKED_AT}

    @cached_property
    def task(self) -> Task:
        """What is predicted."""
        scores = self.splits["train"].scores
        return find_task(self.config.task_name, scores, self.config.loss)

    @property
    def identity(self) -> dict[str, Any]:
        """What all who work on the search have to agree on."""
        spaces = {f"space of {name}": text for name, text in plain_space(self.space).items()}
        digests = {f"{name} data": split.digest for name, split in self.splits.items()}
        bert = bert_in_folder(self.config)
        berts = {"BERT": bert} if bert is not None else {}
        return {**self.config.outcome, **spaces, **digests, **berts}

    def open(self, storage: Storage) -> Queue:
        """Return its trials, which its folder has or will have.

        Raises InputError when the folder is of another search.
        """
        measure = self.task.chosen_by
        study = storage.create(
            NAME,
            self.identity,
            {"config": plain_values(self.config), "space": plain_space(self.space)},
            direction="minimize" if measure.lower_is_better else "maximize",
            sampler=SeededTPE(self.config.seed),
            pruner=MedianPruner(n_startup_trials=_UNPRUNED, n_warmup_steps=2),
        )
        return Queue(study, storage)

    def work(self, queue: Queue, count: int, after: Callable[[], None]) -> None:
        """Take trials until all have ended, and tell how far they are after each.

        `after` is called then too.
        """

        def tell() -> None:
            print_line(progress_line(queue, self.task.chosen_by, count))
            after()

        queue.work(lambda trial: self._try(trial, count), check=lambda _: self.check(), after=tell)

    def options(self, config: RunConfig) -> LoaderOptions:
        """Return how a trial of a configuration runs on this machine."""
        return make_options(replace(config, **self.given), SINGLE_PROCESS)

    def check(self) -> None:
        """Raise InputError for what would fail every trial here: device, model, BERT, or data.

        That is also where the splits are no longer what they were.
        """
        self.options(self.config)
        with redirect_stdout(None):  # each trial tells of itself
            open_training(self.config, _LOOKED_AT)
        for split in self.splits.values():
            if Split(split.folder).digest != split.digest:
                raise InputError(f"{split.folder} has changed; start a search anew.")

    def _try(self, trial: optuna.Trial, count: int) -> float:
        values = suggest(trial, self.space)
        shown = ", ".join(f"{name} {value_text(value)}" for name, value in values.items())
        print_heading(f"Trial {trial.user_attrs['run']} of {count}: {shown}")
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
            self.check()  # what is wrong with all trials is not this one's fault
            raise RunFailed(str(error)) from error
        return best.scores["val"][measure.key]


def find_search(storage: Storage, given: Mapping[str, Any]) -> tuple[Search, Queue]:
    """Return the search that a storage has, and its trials; `given` are this machine's settings.

    Raises InputError when it cannot be read, or when the data here are others.
    """
    study = storage.load(NAME)
    with damaged_study(storage):
        places = {"checkpointdir": str(storage.folder), **recorded(given)}
        values = {**study.user_attrs["config"], **places}
        config = make_config(RunConfig, values, storage.where)
        space = {
            name: json_to_distribution(text) for name, text in study.user_attrs["space"].items()
        }
    search = Search(config, space, given)
    return search, search.open(storage)


def ended_runs(queue: Queue) -> set[str]:
    """Return the runs that have ended and do not wait again."""
    return {run_of(trial) for trial in queue.trials} - set(queue.open_runs)


def progress_line(queue: Queue, measure: Measure, count: int) -> str:
    """Return how many of `count` trials have ended, the best so far, and the time that is left."""
    trials, ended = queue.trials, len(ended_runs(queue))
    parts = [f"{ended} of {count} trials have ended"]
    best = best_trial(queue)
    if best is not None and best.value is not None:
        parts.append(
            f"best validation {measure.name} {measure.text(best.value)}, trial {run_of(best)}"
        )
    seconds = [spent for one in trials if (spent := seconds_of(one)) is not None]
    if seconds and ended < count:
        at_once = sum(one.state == TrialState.RUNNING for one in trials) + 1
        left = (count - ended) / at_once * sum(seconds) / len(seconds)
        parts.append(f"about {duration_text(left)} left")
    return "; ".join(parts)


def best_trial(queue: Queue) -> FrozenTrial | None:
    """Return the best of the trials that were trained to their end; None without one."""
    if not any(trial.state == TrialState.COMPLETE for trial in queue.trials):
        return None
    return queue.study.best_trial


def duration_text(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
