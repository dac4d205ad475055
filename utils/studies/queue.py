"""A queue of runs that several processes share: the trials of an Optuna study in a folder.

Optuna's storage records which runs are taken. A process writes heartbeats while it works on a run;
when they stop, it has died, and its run is enqueued again.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import OptunaError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from system.argument_types import as_argument
from system.console import print_line, print_warning
from system.errors import InputError, is_out_of_memory
from system.interrupts import hold_interrupts
from system.locks import FolderInUse
from system.processes import Processes
from utils.run_config import MACHINE_SETTINGS
from utils.studies import database
from utils.studies.storage import Storage, explain_database_errors
from utils.training.losses import Diverged

# Attributes of a trial: the run's name; why it failed, or True when its process gave it back; its
# number among the run's attempts; and how many attempts before it ended with a dead process.
RUN, _FAILED, _GIVEN_BACK, _ATTEMPT, _KILLS = "run", "failed", "given back", "attempt", "kills"
_OPEN = (TrialState.WAITING, TrialState.RUNNING)
_MAX_RETRIES = 3  # of a run whose processes die: the run itself may be what kills them
_OPTUNA_ERRORS = (OptunaError, SQLAlchemyError)  # TrialPruned is an OptunaError


class RunFailed(Exception):
    """A run failed and would fail again: it is recorded as failed, and the others continue."""


class Queue:
    """The runs of one study, stored in `storage`."""

    def __init__(self, study: optuna.Study, storage: Storage) -> None:
        self.study, self.storage = study, storage

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials of all runs, in the order in which they were enqueued."""
        with explain_database_errors(self.storage):
            trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if RUN in trial.user_attrs]

    @property
    def attributes(self) -> dict[str, Any]:
        """What the process that made the study stored with it."""
        with explain_database_errors(self.storage):
            return self.study.user_attrs

    @property
    def best(self) -> FrozenTrial | None:
        """The completed trial with the best value; None without one."""
        if not any(trial.state == TrialState.COMPLETE for trial in self.trials):
            return None
        with explain_database_errors(self.storage):
            return self.study.best_trial

    @property
    def runs(self) -> dict[str, FrozenTrial]:
        """The last trial of each run."""
        return {run_of(trial): trial for trial in self.trials}

    @property
    def open_runs(self) -> list[str]:
        """The names of the runs that wait, are being worked on, or were lost."""
        runs = self.runs.items()
        return [run for run, trial in runs if trial.state in _OPEN or _is_lost(trial)]

    def add(self, run: str, attributes: Mapping[str, Any]) -> None:
        """Enqueue a run; `attributes` are what the process that takes it needs to know."""
        self.study.enqueue_trial({}, user_attrs={**attributes, RUN: run})

    def take_back(self, trial: FrozenTrial, reason: str) -> None:
        """Remove a run from the queue; a process that has just taken it stops after an epoch."""
        with suppress(OptunaError):  # it has ended meanwhile
            storage = self.storage.database
            storage.set_trial_user_attr(trial._trial_id, _FAILED, reason)
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def requeue_lost(self) -> None:
        """Enqueue again the runs whose processes died or gave them back."""
        fail_stale_trials(self.study)
        if any(map(_is_lost, self.runs.values())):
            with self.storage.locked():  # so that each is enqueued once
                for trial in filter(_is_lost, self.runs.values()):
                    self.study.add_trial(_next_attempt(trial))

    def work(
        self,
        function: Callable[[optuna.Trial], float],
        check: Callable[[FrozenTrial], None],
        after: Callable[[], None],
    ) -> None:
        """Take one run after the other, and call `function` with its trial, until all have ended.

        `check` gets a waiting trial before it is taken; `after` is called after each run. While
        other processes have runs, this one waits: if they die, their runs come back. A run that
        raises `RunFailed` or `Diverged`, or is out of memory, is recorded as failed; one whose
        folder is in use is enqueued again, as after any other error or interrupt, which is raised.
        """
        is_announced = False
        while True:
            with explain_database_errors(self.storage):
                self.requeue_lost()
                first_by_state = {trial.state: trial for trial in reversed(self.trials)}
            if TrialState.WAITING in first_by_state:
                check(first_by_state[TrialState.WAITING])
                with explain_database_errors(self.storage):
                    error = self._take(function)
                self._raise_unless_in_use(error)
                after()
            elif TrialState.RUNNING in first_by_state:
                if not is_announced:
                    print_line("Waiting for runs of other processes: they come back if these die")
                time.sleep(database.BEAT)
            else:
                return
            is_announced = TrialState.WAITING not in first_by_state

    def _take(self, function: Callable[[optuna.Trial], float]) -> BaseException | None:
        """Take the next run, if there still is one; return the error for which it is given back."""
        # Interrupts inside Optuna are held until there is a run that can be given back, or until
        # its result has been recorded.
        interrupts = ExitStack()
        numbers: list[int] = []  # of the trial that is taken
        optuna_errors: list[BaseException] = []  # raised by `function`
        give_back_errors: list[BaseException] = []

        def call(trial: optuna.Trial) -> float:
            if RUN not in trial.user_attrs:  # no run was waiting any more: Optuna made a new trial
                raise RunFailed
            numbers.append(trial.number)
            try:
                interrupts.close()
                try:
                    return function(trial)
                finally:
                    interrupts.enter_context(hold_interrupts())
            except _OPTUNA_ERRORS as error:
                optuna_errors.append(error)
                raise
            except BaseException as error:
                reason = _failure_reason(error)
                attribute: tuple[str, Any] = (_FAILED, reason)
                if reason is None:
                    attribute = (_GIVEN_BACK, True)
                    give_back_errors.append(error)
                else:
                    print_warning(f"run {trial.user_attrs[RUN]} failed: {reason}")
                with suppress(*_OPTUNA_ERRORS):  # the error itself says more
                    trial.set_user_attr(*attribute)
                raise RunFailed from None  # Optuna records it

        try:
            with interrupts:
                interrupts.enter_context(hold_interrupts())
                self.study.optimize(call, n_trials=1, catch=(RunFailed,))
        except KeyboardInterrupt as error:  # one that was held
            give_back_errors.append(error)
        except Exception as error:
            trial = next((trial for trial in self.trials if trial.number in numbers), None)
            if error in optuna_errors or trial is None or not trial.state.is_finished():
                raise
            print_warning(
                f"run {run_of(trial)} was taken from this process: by a later command, or because "
                f"this process wrote no heartbeat for {database.LEASE} seconds"
            )
        gc.collect()  # free the run's memory before the next one: no frame holds it now
        torch.cuda.empty_cache()  # does nothing without CUDA
        return give_back_errors[0] if give_back_errors else None

    def _raise_unless_in_use(self, error: BaseException | None) -> None:
        """Raise the error for which a run was given back, unless its folder was only in use."""
        if isinstance(error, FolderInUse):  # by a process that lives but writes no heartbeat
            print_line(f"{error.activity} {error.folder}: its run waits again")
            time.sleep(database.BEAT)
        elif error is not None:
            with suppress(Exception):  # the error itself says more
                self.requeue_lost()
            raise error


def _is_lost(trial: FrozenTrial) -> bool:
    """Return whether a trial's process died or gave it back, so that its run must wait again."""
    if trial.state != TrialState.FAIL or _FAILED in trial.user_attrs:
        return False
    return _GIVEN_BACK in trial.user_attrs or trial.user_attrs.get(_KILLS, 0) < _MAX_RETRIES


def _next_attempt(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial of the same run, with the same values."""
    attributes = {name: value for name, value in trial.user_attrs.items() if name != _GIVEN_BACK}
    kills = attributes.get(_KILLS, 0) + (_GIVEN_BACK not in trial.user_attrs)
    return optuna.trial.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**attributes, _ATTEMPT: attempt_of(trial) + 1, _KILLS: kills},
    )


def _failure_reason(error: BaseException) -> str | None:
    """Return why a run that raised this error would fail again; None when it may succeed."""
    if is_out_of_memory(error):
        return "out of memory"
    return str(error) if isinstance(error, RunFailed | Diverged) else None


def recorded(local_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a worker's local settings that its runs record: paths and display.

    The others say how its machine executes a run, which is no part of the study.
    """
    return {name: value for name, value in local_settings.items() if name not in MACHINE_SETTINGS}


def refuse_several(processes: Processes, folder: Path) -> None:
    """Raise InputError under torchrun: each process could take runs of its own instead."""
    if processes.count > 1:
        raise InputError(
            "--tune and --worker go without torchrun; start each process by itself, the others "
            f"with --worker {as_argument(folder)}."
        )


def run_of(trial: FrozenTrial) -> str:
    """Return the name of a trial's run."""
    return str(trial.user_attrs[RUN])


def attempt_of(trial: FrozenTrial) -> int:
    """Return the number of a trial among the attempts at its run, from 1."""
    return int(trial.user_attrs.get(_ATTEMPT, 1))


def why_failed(trial: FrozenTrial) -> str:
    """Return why a trial failed."""
    if _GIVEN_BACK in trial.user_attrs:
        return "it was given back"
    return str(trial.user_attrs.get(_FAILED, "its process ended"))


def seconds_of(trial: FrozenTrial) -> float | None:
    """Return how long a trial was worked on; None when its process died at an unknown time."""
    has_died = trial.state == TrialState.FAIL and not {_FAILED, _GIVEN_BACK} & set(trial.user_attrs)
    return None if has_died or trial.duration is None else trial.duration.total_seconds()
