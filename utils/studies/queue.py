"""Runs that wait in a folder for whoever takes them: trials of an Optuna study.

Optuna's storage says who has which run. A process that works on one beats while it does; one
that no longer does has died, and its run waits again.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from system.console import print_line, print_warning
from system.errors import InputError, is_out_of_memory
from system.processes import Processes
from utils.studies.storage import BEAT, LEASE, Storage, telling_of_storage
from utils.training.trainer import Diverged

RUN, _FAILED = "run", "failed"  # attributes of a trial: which run it is, and why it failed
_OPEN = (TrialState.WAITING, TrialState.RUNNING)


class RunFailed(Exception):
    """A run came to nothing and would again: it is recorded, and the others go on."""


class Queue:
    """The runs of one study, which is kept in `storage`."""

    def __init__(self, study: optuna.Study, storage: Storage) -> None:
        self.study, self.storage = study, storage

    @property
    def trials(self) -> list[FrozenTrial]:
        """Each run's trials, in the order in which they began to wait."""
        return [one for one in self.study.get_trials(deepcopy=False) if RUN in one.user_attrs]

    @property
    def open_runs(self) -> list[str]:
        """The names of the runs that wait or that somebody has."""
        return [run_of(one) for one in self.trials if one.state in _OPEN]

    def add(self, run: str, about: Mapping[str, Any]) -> None:
        """Let a run wait; `about` is what whoever takes it has to know."""
        self.study.enqueue_trial({}, user_attrs={**about, RUN: run})

    def work(
        self,
        function: Callable[[optuna.Trial], float],
        check: Callable[[FrozenTrial], None],
        after: Callable[[], None],
    ) -> None:
        """Take one run after the other, and call `function` with its trial, until all have ended.

        `check` sees what waits before it is taken; `after` is called after each. What others have
        is waited for: it may come back. A run that raises `RunFailed` or `Diverged`, or is out of
        memory, is recorded as failed; with any other error, an interrupt too, it waits again, and
        this ends.
        """
        is_told = False
        with telling_of_storage(self.storage), _quiet_threads():
            while True:
                fail_stale_trials(self.study)
                states = {one.state: one for one in reversed(self.trials)}  # the first of each
                if TrialState.WAITING in states:
                    check(states[TrialState.WAITING])
                    self._take(function)
                    after()
                elif TrialState.RUNNING in states:
                    if not is_told:
                        print_line("Waiting for what others have: it comes back if they die")
                    time.sleep(BEAT)
                else:
                    return
                is_told = TrialState.WAITING not in states

    def _take(self, function: Callable[[optuna.Trial], float]) -> None:
        """Have Optuna take the next run; nothing is done where others were faster."""
        taken: list[int] = []
        raised: list[BaseException] = []

        def call(trial: optuna.Trial) -> float:
            if RUN not in trial.user_attrs:  # nothing was waiting any more
                raise RunFailed
            taken.append(trial.number)
            try:
                with _recording_failure(trial):
                    return function(trial)
            except BaseException as error:
                raised.append(error)
                raise

        try:
            self.study.optimize(call, n_trials=1, catch=(RunFailed,))
        except BaseException as error:
            trial = next(one for one in self.trials if one.number in taken) if taken else None
            if trial is not None and error not in raised and trial.state.is_finished():
                print_warning(
                    f"run {run_of(trial)} was taken from this process, which gave no sign of life "
                    f"for {LEASE} seconds"
                )
                return
            if trial is not None and trial.state == TrialState.FAIL:
                with suppress(Exception):  # the error itself says more
                    _let_wait_again(self.study, trial)
            raise


_let_wait_again = RetryHeartbeatStaleTrialCallback()  # however often its process is interrupted


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Let a sign of life that cannot be given fail in silence: the run's next look tells more."""
    before, threading.excepthook = threading.excepthook, lambda _: None
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def _recording_failure(trial: optuna.Trial) -> Iterator[None]:
    """Turn what a run cannot help into `RunFailed`, with the reason in its trial."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            reason = "out of memory"
            gc.collect()
            torch.cuda.empty_cache()  # nothing where there is no CUDA
        elif isinstance(error, RunFailed | Diverged):
            reason = str(error)
        else:
            raise
        trial.set_user_attr(_FAILED, reason)
        print_warning(f"run {trial.user_attrs[RUN]} failed: {reason}")
        raise RunFailed(reason) from None


def refuse_several(processes: Processes, folder: Path) -> None:
    """Raise InputError where several processes work as one: each could take runs of its own."""
    if processes.count > 1:
        raise InputError(
            "torchrun is for one training; here start each process alone, the others with --worker "
            f"{folder}."
        )


def run_of(trial: FrozenTrial) -> str:
    """Return the name of the run that a trial is of."""
    name: str = trial.user_attrs[RUN]
    return name


def why_failed(trial: FrozenTrial) -> str:
    """Return why a trial failed."""
    reason: str = trial.user_attrs.get(_FAILED, "its process ended")
    return reason
