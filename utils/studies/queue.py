"""Runs that wait in a folder for whoever takes them: trials of an Optuna study.

Optuna's storage says who has which run. A process that works on one beats while it does; one
that no longer does has died, and its run waits again.
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

from system.console import hold_interrupts, print_line, print_warning
from system.errors import InputError, is_out_of_memory
from system.locks import FolderInUse
from system.processes import Processes
from utils.studies import database
from utils.studies.storage import Storage, telling_of_storage
from utils.training.trainer import Diverged

RUN = "run"  # attributes of a trial: which run it is,
_FAILED, _GIVEN_BACK = "failed", "given back"  # why it failed, or that it did not,
_ATTEMPT, _KILLS = "attempt", "kills"  # and how many were before it, and died
_OPEN = (TrialState.WAITING, TrialState.RUNNING)
_MOST_RETRIES = 3  # of a run whose processes are killed: it may be what kills them
_OF_OPTUNA = (OptunaError, SQLAlchemyError)  # that a trial is pruned is among them


class RunFailed(Exception):
    """A run came to nothing and would again: it is recorded, and the others go on."""


class _Ended(Exception):
    """Has Optuna record a trial as failed."""


class Queue:
    """The runs of one study, which is kept in `storage`."""

    def __init__(self, study: optuna.Study, storage: Storage) -> None:
        self.study, self.storage = study, storage

    @property
    def trials(self) -> list[FrozenTrial]:
        """Each run's trials, in the order in which they began to wait."""
        return [one for one in self.study.get_trials(deepcopy=False) if RUN in one.user_attrs]

    @property
    def runs(self) -> dict[str, FrozenTrial]:
        """The last trial of each run."""
        return {run_of(one): one for one in self.trials}

    @property
    def open_runs(self) -> list[str]:
        """The names of the runs that wait, or that somebody has, or died with."""
        return [run for run, one in self.runs.items() if one.state in _OPEN or _is_lost(one)]

    def add(self, run: str, about: Mapping[str, Any]) -> None:
        """Let a run wait; `about` is what whoever takes it has to know."""
        self.study.enqueue_trial({}, user_attrs={**about, RUN: run})

    def take_back(self, trial: FrozenTrial, why: str) -> None:
        """Let a run wait no longer; whoever has just taken it sees that after an epoch."""
        with suppress(OptunaError):  # it has ended meanwhile
            storage = self.storage.database
            storage.set_trial_user_attr(trial._trial_id, _FAILED, why)
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def wait_again(self) -> None:
        """Let the runs wait again whose processes died, or gave them back."""
        fail_stale_trials(self.study)
        if any(map(_is_lost, self.runs.values())):
            with self.storage.alone():  # so that each waits once
                for trial in filter(_is_lost, self.runs.values()):
                    self.study.add_trial(_next_attempt(trial))

    def work(
        self,
        function: Callable[[optuna.Trial], float],
        check: Callable[[FrozenTrial], None],
        after: Callable[[], None],
    ) -> None:
        """Take one run after the other, and call `function` with its trial, until all have ended.

        `check` sees what waits before it is taken; `after` is called after each. What others have
        is waited for: it may come back. A run that raises `RunFailed` or `Diverged`, or is out of
        memory, is recorded as failed; one whose folder is in use waits again, and so it does with
        any other error, an interrupt too, which ends this.
        """
        is_told = False
        while True:
            with telling_of_storage(self.storage):
                self.wait_again()
                states = {one.state: one for one in reversed(self.trials)}  # the first of each
            if TrialState.WAITING in states:
                check(states[TrialState.WAITING])
                with telling_of_storage(self.storage):
                    error = self._take(function)
                self._go_on_after(error)
                with telling_of_storage(self.storage):
                    after()
            elif TrialState.RUNNING in states:
                if not is_told:
                    print_line("Waiting for what others have: it comes back if they die")
                time.sleep(database.BEAT)
            else:
                return
            is_told = TrialState.WAITING not in states

    def _take(self, function: Callable[[optuna.Trial], float]) -> BaseException | None:
        """Have Optuna take the next run, where others were not faster.

        Returns what it was given back for.
        """
        # An interrupt within Optuna waits until there is a run that can be given back, or until
        # what came out of it has been told.
        held = ExitStack()
        taken: list[int] = []
        raised: list[BaseException] = []  # by `function`
        given_back: list[BaseException] = []

        def call(trial: optuna.Trial) -> float:
            if RUN not in trial.user_attrs:  # nothing was waiting any more
                raise _Ended
            taken.append(trial.number)
            try:
                held.close()
                try:
                    return function(trial)
                finally:
                    held.enter_context(hold_interrupts())
            except _OF_OPTUNA as error:
                raised.append(error)
                raise
            except BaseException as error:
                why = _why_it_fails(error)
                if why is None:
                    given_back.append(error)
                else:
                    print_warning(f"run {trial.user_attrs[RUN]} failed: {why}")
                with suppress(*_OF_OPTUNA):  # the error itself says more
                    trial.set_user_attr(*((_GIVEN_BACK, True) if why is None else (_FAILED, why)))
                raise _Ended from None

        try:
            with held:
                held.enter_context(hold_interrupts())
                self.study.optimize(call, n_trials=1, catch=(_Ended,))
        except KeyboardInterrupt as error:  # one that was held
            given_back.append(error)
        except Exception as error:
            trial = next((one for one in self.trials if one.number in taken), None)
            if error in raised or trial is None or not trial.state.is_finished():
                raise
            print_warning(
                f"run {run_of(trial)} was taken from this process, which gave no sign of life "
                f"for {database.LEASE} seconds, or by a later command"
            )
        gc.collect()  # what a failed run had, before the next one begins: no frame has it any more
        torch.cuda.empty_cache()  # nothing where there is no CUDA
        return given_back[0] if given_back else None

    def _go_on_after(self, error: BaseException | None) -> None:
        """Raise what a run was given back for, unless its folder was only in use."""
        if isinstance(error, FolderInUse):  # by one that gives no sign of life, but lives
            print_line(f"{error.activity} {error.folder}: its run waits again")
            time.sleep(database.BEAT)
        elif error is not None:
            with suppress(Exception):  # the error itself says more
                self.wait_again()
            raise error


def _is_lost(trial: FrozenTrial) -> bool:
    """Tell whether a trial's process died, or gave it back, so that its run has to wait again."""
    if trial.state != TrialState.FAIL or _FAILED in trial.user_attrs:
        return False
    return _GIVEN_BACK in trial.user_attrs or trial.user_attrs.get(_KILLS, 0) < _MOST_RETRIES


def _next_attempt(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial of the same run, with the same values."""
    about = {name: value for name, value in trial.user_attrs.items() if name != _GIVEN_BACK}
    kills = about.get(_KILLS, 0) + (_GIVEN_BACK not in trial.user_attrs)
    return optuna.trial.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**about, _ATTEMPT: attempt_of(trial) + 1, _KILLS: kills},
    )


def _why_it_fails(error: BaseException) -> str | None:
    """Return why a run that raised this would fail again; None where it may not."""
    if is_out_of_memory(error):
        return "out of memory"
    return str(error) if isinstance(error, RunFailed | Diverged) else None


def refuse_several(processes: Processes, folder: Path) -> None:
    """Raise InputError where several processes work as one: each could take runs of its own."""
    if processes.count > 1:
        raise InputError(
            "torchrun is for one training; here start each process alone, the others with --worker "
            f"{folder}."
        )


def run_of(trial: FrozenTrial) -> str:
    """Return the name of the run that a trial is of."""
    return str(trial.user_attrs[RUN])


def attempt_of(trial: FrozenTrial) -> int:
    """Return how many trials of its run there were, with this one."""
    return int(trial.user_attrs.get(_ATTEMPT, 1))


def why_failed(trial: FrozenTrial) -> str:
    """Return why a trial failed."""
    if _GIVEN_BACK in trial.user_attrs:
        return "it was given back"
    return str(trial.user_attrs.get(_FAILED, "its process ended"))


def seconds_of(trial: FrozenTrial) -> float | None:
    """Return for how long a trial was worked on; None where its process died: nobody knows."""
    is_known = trial.state != TrialState.FAIL or {_FAILED, _GIVEN_BACK} & trial.user_attrs.keys()
    return trial.duration.total_seconds() if is_known and trial.duration is not None else None
