"""The queue of a comparison's runs, from which processes of several machines may take them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from data.loading.options import LoaderOptions
from models.registry import config_class
from system.config import make_config, plain_values
from system.errors import InputError
from system.files import check_writable
from system.processes import SINGLE_PROCESS
from utils.run_config import RunConfig
from utils.running.setup import make_options
from utils.studies import database
from utils.studies.queue import RUN, Queue, recorded, run_of, why_failed
from utils.studies.run_states import (
    BERT,
    COMPLETE,
    MODEL,
    digests_of,
    remove_runs,
    run_name,
    state_of,
    train_run,
)
from utils.studies.storage import Storage, explain_damage, explain_database_errors
from utils.training.history import Epoch

NAME = "comparison"  # of the study
_RESULTS = "results"  # attribute of a run: the absolute folder for results


def train_queue(
    runs: Sequence[tuple[RunConfig, str]], folder: Path, url: str | None, overwrite: bool
) -> list[str]:
    """Enqueue the runs, given with their titles, and train whatever waits until nothing does.

    `overwrite` removes earlier runs first. Returns a message for each run that has not ended.
    """
    if not runs:
        return []
    for path in {config.resultdir for config, _ in runs}:
        check_writable(path)  # fail now, and let workers of other working directories find it
    storage = Storage(folder, url)
    queue = Queue(storage.create(NAME, {}), storage)
    with explain_database_errors(storage):
        queue.requeue_lost()
    with storage.locked():
        enqueued = _clear(queue, {run_name(config): config for config, _ in runs})
        if overwrite:  # only now that the runs are known to start
            remove_runs([config for config, _ in runs])
        for config, title in runs:
            if run_name(config) not in enqueued:
                queue.add(run_name(config), {"title": title, **_attributes(config)})
    work_on_runs(queue, folder, {})
    trials = queue.runs.items()
    reasons = {name: why_failed(one) for name, one in trials if one.state == TrialState.FAIL}
    return [
        f"{run.checkpointdir} has not ended: {reasons.get(run_name(run), 'it was taken back')}"
        for run, _ in runs
        if state_of(run) != COMPLETE
    ]


def _attributes(config: RunConfig) -> dict[str, Any]:
    """Return what a process that takes this run needs to know."""
    results = str(config.resultdir.absolute())
    return {"config": plain_values(config), "digests": digests_of(config), _RESULTS: results}


def _resultdir(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return the study's folder for results as a setting, where a relative path misses it."""
    absolute = attributes.get(_RESULTS)  # earlier versions enqueued none
    if absolute is None or Path(attributes["config"]["resultdir"]).absolute() == Path(absolute):
        return {}
    # A machine that has the study's folder at another path does not have this one; and it may be
    # another user's, where `is_dir` would raise.
    is_usable = os.access(absolute, os.W_OK) and Path(absolute).is_dir()
    return {"resultdir": absolute} if is_usable else {}


def _clear(queue: Queue, configs: Mapping[str, RunConfig]) -> set[str]:
    """Remove waiting runs that are outdated by `configs`; return the names of the open runs.

    Raises InputError when a process trains a run of `configs` with other settings or data.
    """
    trials = [one for one in queue.trials if one.state in (TrialState.WAITING, TrialState.RUNNING)]
    is_at_work = any(trial.state == TrialState.RUNNING for trial in trials)
    open_runs = set()
    for trial in trials:
        run, config = run_of(trial), configs.get(run_of(trial))
        if trial.state == TrialState.RUNNING:
            is_open = True
            with explain_damage(queue.storage):
                running = make_config(RunConfig, trial.user_attrs["config"], run).outcome
                running |= trial.user_attrs["digests"]
            expected = {} if config is None else config.outcome | digests_of(config)
            if MODEL not in running:  # earlier versions did not record it
                expected.pop(MODEL, None)
            if config is not None and running != expected:
                raise InputError(
                    f"Another process trains {config.checkpointdir} with other settings or data; "
                    f"end it, or wait {database.LEASE} seconds if it was killed."
                )
        elif config is None:
            is_open = is_at_work  # else the command that enqueued it has given up
        else:
            is_open = _attributes(config).items() <= trial.user_attrs.items()
        if is_open:
            open_runs.add(run)
        else:
            queue.take_back(trial, "a later command took it back")
    return open_runs


def work_on_runs(queue: Queue, folder: Path, local_settings: Mapping[str, Any]) -> None:
    """Take runs of a comparison in `folder` until all have ended, with this machine's settings.

    Raises InputError when the data here are not those of the comparison.
    """

    def config_of(attributes: Mapping[str, Any]) -> RunConfig:
        path = str(folder / attributes[RUN])
        here = {**_resultdir(attributes), **recorded(local_settings), "checkpointdir": path}
        return make_config(RunConfig, {**attributes["config"], **here}, path)

    def options_of(config: RunConfig) -> LoaderOptions:
        return make_options(replace(config, **local_settings), SINGLE_PROCESS)

    def check(trial: FrozenTrial) -> None:
        with explain_damage(queue.storage):
            config, expected = config_of(trial.user_attrs), dict(trial.user_attrs["digests"])
        options_of(config)  # raises when its device is missing
        config_class(config.model_name)  # or its model
        paths = {BERT: config.finetune_bert, MODEL: config.model}
        for name, digest in digests_of(config).items():
            # Earlier versions did not record the model's file.
            if digest != expected.get(name, digest if name == MODEL else None):
                path = paths.get(name, config.data_folder / name)
                raise InputError(
                    f"{path} differs from that of the comparison in {folder}; give the same data "
                    "(--datadir), BERT and model."
                )

    def train_trial(trial: optuna.Trial) -> float:
        attributes = trial.user_attrs

        def report(epoch: Epoch) -> None:
            trial.report(epoch.number, epoch.number)  # raises when this process has lost the run

        config = config_of(attributes)
        train_run(config, attributes.get("title", "Run"), options_of(config), report)
        return 0.0  # Optuna wants a value; scores are in the run's folder

    queue.work(train_trial, check, after=lambda: None)
