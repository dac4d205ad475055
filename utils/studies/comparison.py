"""A comparison: several models, each trained with several seeds, and their table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from data.layout import SPLITS
from data.loading.options import LoaderOptions
from data.loading.split import Split
from models.registry import config_class, model_digest
from system.config import make_config, plain_values
from system.console import print_heading
from system.errors import InputError, differing
from system.files import check_writable
from system.processes import SINGLE_PROCESS, Processes
from utils.run_config import RunConfig
from utils.running.setup import find_task, make_options, open_training
from utils.running.text_encoder import bert_in_folder
from utils.studies import database
from utils.studies.plan import plan_runs, recorded, run_name, runs_of_studies
from utils.studies.queue import RUN, Queue, run_of, why_failed
from utils.studies.report import tabulate, write_study
from utils.studies.runs import read_run
from utils.studies.storage import Storage, explain_damage, explain_database_errors, holds_studies
from utils.training.history import Epoch
from utils.training.run import train
from utils.training.run_folder import (
    LAST,
    LOGS,
    RUN_FILE,
    lock_run_folder,
    remove_run,
    written_files,
)

NAME = "comparison"  # of the study
_RESULTS = "results"  # attribute of a run: the absolute folder for results
_BERT = "BERT"  # key of the text encoder's origin, beside the splits' digests
_MODEL = "model file"  # key of the digest of a user's own model, there too
_NEW, _AGAIN, _GOES_ON, _COMPLETE = "new", "begins again", "goes on", "complete"


def run_study(
    configs: Mapping[str, RunConfig],
    seeds: Sequence[int] | None,
    processes: Processes,
    overwrite: bool = False,
    dry_run: bool = False,
    url: str | None = None,
) -> None:
    """Train each of the named configurations once per seed, and write the table of their folder.

    Complete runs are not trained again, unless with `overwrite`; interrupted ones are resumed. The
    runs wait in the database of `url`, else in the folder, for this process and other workers;
    under torchrun, all processes train each run together, in turn. The table of all runs in the
    folder, earlier ones too, is written after each run. Raises InputError, before anything is
    trained, when a folder has a run of other settings or data, when the table could not have all
    runs, or when a model cannot be built; and at the end when a run failed.
    """
    runs = plan_runs(configs, seeds)
    states = [_AGAIN if overwrite else _state_of(config) for config in runs]
    folder = runs[0].checkpointdir.parent.parent
    _check_tasks(runs, folder)
    _check_models(runs, states, processes)
    titles = [f"Run {number} of {len(runs)}" for number in range(1, len(runs) + 1)]
    pending = []
    for config, state, title in zip(runs, states, titles, strict=True):
        if dry_run or state == _COMPLETE:
            work = f", {config.epochs} epochs in batches of {config.batch_size}"
            text = state if state == _COMPLETE else state + work
            print_heading(f"{title}, {config.checkpointdir}: {text}")
        else:
            pending.append((config, title))
    if dry_run:
        if holds_studies(folder) and set(states) != {_COMPLETE}:
            Storage(folder, url).check(NAME, {})  # raises where it is a search's
        return
    unended: list[str] = []
    if processes.count == 1:
        unended = _train_queue(pending, folder, url, overwrite)
    else:
        if overwrite:
            if processes.is_first:
                _remove_runs([config for config, _ in pending])
            processes.highest(0)  # all processes wait here until the files are removed
        for config, title in pending:
            train_run(config, title, make_options(config, processes))
    if processes.is_first and len(unended) < len(runs):
        tabulate(runs_of_studies(folder), folder)
    if unended:
        raise InputError(f"{'; '.join(unended)}; run the same command again to train the rest")


def _check_tasks(runs: Sequence[RunConfig], folder: Path) -> None:
    """Raise InputError unless these runs and the ended ones in their study's folder fit one table.

    Only runs of one task and scale do.
    """
    scale = Split(runs[0].data_folder / "train").scores
    task = find_task(runs[0].task_name, scale)
    for config in runs:
        if config.task_name != task.name:
            raise InputError(
                f"{run_name(config)} is for the task {config.task_name}, {run_name(runs[0])} for "
                f"{task.name}; compare runs of one task."
            )
    planned = {config.checkpointdir for config in runs}
    for path in runs_of_studies(folder):
        if path in planned:  # each of these is checked by itself
            continue
        run = read_run(path)
        if run is None:
            raise InputError(
                f"{path / RUN_FILE} cannot be read as the record of a run; move it elsewhere, or "
                "give another --checkpointdir."
            )
        if run.result is not None and run.task != task:
            raise InputError(
                f"{path} has other scores: {run.task.name} of {run.scale}, not {task.name} of "
                f"{scale}; give another --checkpointdir than {folder}."
            )


def _check_models(runs: Sequence[RunConfig], states: Sequence[str], processes: Processes) -> None:
    """Raise InputError, which names the run, when the model of one of these cannot be trained.

    The `states` are those of the runs; models of complete ones are left as they are.
    """
    checked = set()
    for config, state in zip(runs, states, strict=True):
        resumed = config.checkpointdir / LAST if state == _GOES_ON else None
        setup = repr(replace(config, seed=0, checkpointdir=Path())), resumed
        if state != _COMPLETE and setup not in checked:
            checked.add(setup)
            try:
                with redirect_stdout(None):  # each run prints this itself
                    open_training(config, resumed=resumed, processes=processes)
            except InputError as error:
                raise InputError(f"{run_name(config)}: {error}") from error


def _remove_runs(configs: Sequence[RunConfig]) -> None:
    """Remove the files of earlier runs, where all of these can be replaced.

    Raises InputError when another process trains one of them, OSError when their results could not
    be written; then nothing is removed.
    """
    with ExitStack() as locks:
        for config in configs:
            check_writable(config.resultdir)
            locks.enter_context(lock_run_folder(config.checkpointdir))
            check_writable(config.checkpointdir / LOGS)
        for config in configs:
            remove_run(config.checkpointdir)


def train_run(
    config: RunConfig,
    title: str,
    options: LoaderOptions,
    after_epoch: Callable[[Epoch], None] | None = None,
) -> None:
    """Train or resume one run, unless it is complete, and write the table of its study.

    `after_epoch` is passed to the `Trainer`.
    """
    state = _state_of(config)
    print_heading(f"{title}, {config.checkpointdir}: {state}")
    if state != _COMPLETE:
        resume = "auto" if state == _GOES_ON else None
        train(config, options, resume, state == _AGAIN, after_epoch)
    if options.processes.is_first:
        folder = config.checkpointdir.parent.parent
        write_study(runs_of_studies(folder), folder)


def _train_queue(
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
            _remove_runs([config for config, _ in runs])
        for config, title in runs:
            if run_name(config) not in enqueued:
                queue.add(run_name(config), {"title": title, **_attributes(config)})
    work_on_runs(queue, folder, {})
    with explain_database_errors(storage):
        trials = queue.runs.items()
        reasons = {name: why_failed(one) for name, one in trials if one.state == TrialState.FAIL}
    return [
        f"{run.checkpointdir} has not ended: {reasons.get(run_name(run), 'it was taken back')}"
        for run, _ in runs
        if _state_of(run) != _COMPLETE
    ]


def _attributes(config: RunConfig) -> dict[str, Any]:
    """Return what a process that takes this run needs to know."""
    results = str(config.resultdir.absolute())
    return {"config": plain_values(config), "digests": _digests(config), _RESULTS: results}


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
            expected = {} if config is None else config.outcome | _digests(config)
            if _MODEL not in running:  # earlier versions did not record it
                expected.pop(_MODEL, None)
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
        paths = {_BERT: config.finetune_bert, _MODEL: config.model}
        for name, digest in _digests(config).items():
            # Earlier versions did not record the model's file.
            if digest != expected.get(name, digest if name == _MODEL else None):
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


def _digests(config: RunConfig) -> dict[str, str]:
    digests = {name: Split(config.data_folder / name).digest for name in SPLITS}
    others = {_BERT: bert_in_folder(config), _MODEL: model_digest(config.model_name)}
    return digests | {name: digest for name, digest in others.items() if digest is not None}


def _state_of(config: RunConfig) -> str:
    """Return the state of a run.

    Raises InputError when its folder has a run of other settings, or one without a record.
    """
    run = read_run(config.checkpointdir)
    if run is None:
        files = written_files(config.checkpointdir)
        if files:
            raise InputError(
                f"{config.checkpointdir} holds {files[0].name}, but no {RUN_FILE} that can be read "
                "as the record of a run; move the folder elsewhere, or give another "
                "--checkpointdir."
            )
        return _NEW
    recorded_values = run.config.outcome | run.digests
    recorded_values |= {_BERT: run.bert, _MODEL: run.model_digest}
    for name, value in (config.outcome | _digests(config)).items():
        # None: it was not recorded
        is_known = name not in (_BERT, _MODEL) or recorded_values[name] is not None
        if is_known and recorded_values.get(name) != value:
            before, now = differing(recorded_values.get(name), value)
            raise InputError(
                f"{run.folder} holds a run with {name} {before}, this one is {now}; "
                "give the same settings and data, another --checkpointdir, or --overwrite."
            )
    if run.result is not None:
        return _COMPLETE
    # A run that was killed before it saved a checkpoint cannot be resumed.
    return _GOES_ON if (run.folder / LAST).is_file() else _AGAIN
