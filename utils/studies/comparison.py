"""Several models, each trained over seeds in a folder of its own, to one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from data.layout import SPLITS
from data.loading.options import LoaderOptions
from data.loading.split import Split
from models.registry import config_class
from system.config import make_config, plain_values
from system.console import print_heading
from system.errors import InputError, differing
from system.processes import SINGLE_PROCESS, Processes
from utils.run_config import RunConfig
from utils.running.setup import make_options
from utils.running.text_encoder import bert_in_folder
from utils.studies import database
from utils.studies.plan import place_of, plan_runs, recorded, runs_of_studies
from utils.studies.queue import RUN, Queue, run_of, why_failed
from utils.studies.report import tabulate, write_study
from utils.studies.runs import read_run
from utils.studies.storage import Storage, damaged_study, telling_of_storage
from utils.training.history import Epoch
from utils.training.run import train
from utils.training.run_folder import LAST, open_run_folder

NAME = "comparison"  # of the one study in a folder
_BERT = "BERT"  # the one of a folder, beside the splits' digests
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

    Runs that are complete are not trained again, unless `overwrite` says so, and one that was
    interrupted goes on. The others wait for this process and for whoever else takes them, in the
    database of `url`, else in the folder; processes that work as one take each in turn. The table
    is written after each run, of all studies in the folder, those of earlier days too. Raises
    InputError when a run of other settings or data is in the way, and at the end when one failed.
    """
    runs = plan_runs(configs, seeds)
    states = [_AGAIN if overwrite else _state_of(config) for config in runs]
    folder = runs[0].checkpointdir.parent.parent
    titles = [f"Run {number} of {len(runs)}" for number in range(1, len(runs) + 1)]
    left = []
    for config, state, title in zip(runs, states, titles, strict=True):
        if dry_run or state == _COMPLETE:
            work = f", {config.epochs} epochs in batches of {config.batch_size}"
            print_heading(f"{title}, {config.checkpointdir}: {state}{work * (state != _COMPLETE)}")
        else:
            left.append((config, title))
    if dry_run:
        return
    if overwrite:
        for config, _ in left if processes.is_first else ():
            with open_run_folder(config.checkpointdir, None, overwrite=True):
                pass  # what an earlier run wrote is removed
        processes.highest(0)  # none begins before
    unended: list[str] = []
    if processes.count == 1:
        unended = _hand_out(left, folder, url)
    else:
        for config, title in left:
            train_run(config, title, make_options(config, processes))
    if processes.is_first and len(unended) < len(runs):
        tabulate(runs_of_studies(folder), folder)
    if unended:
        raise InputError(f"{'; '.join(unended)}; the same command trains what is left")


def train_run(
    config: RunConfig,
    title: str,
    options: LoaderOptions,
    after_epoch: Callable[[Epoch], None] | None = None,
) -> None:
    """Train one run as far as it is not yet, and write the table of its study.

    `after_epoch` is as `Trainer` takes it.
    """
    state = _state_of(config)
    print_heading(f"{title}, {config.checkpointdir}: {state}")
    if state != _COMPLETE:
        resume = "auto" if state == _GOES_ON else None
        train(config, options, resume, state == _AGAIN, after_epoch)
    if options.processes.is_first:
        folder = config.checkpointdir.parent.parent
        write_study(runs_of_studies(folder), folder)


def _hand_out(left: Sequence[tuple[RunConfig, str]], folder: Path, url: str | None) -> list[str]:
    """Let the runs wait in the folder's database, and take them as long as there are any.

    Returns a line of each that has not ended then.
    """
    if not left:
        return []
    storage = Storage(folder, url)
    queue = Queue(storage.create(NAME, {}), storage)
    with telling_of_storage(storage):
        queue.wait_again()
    with storage.alone():
        there = _clear(queue, {place_of(config): config for config, _ in left})
        for config, title in left:
            if place_of(config) not in there:
                queue.add(place_of(config), {"title": title, **_about(config)})
    work_on_runs(queue, folder, {})
    with telling_of_storage(storage):
        ended = queue.runs.items()
        failed = {run: why_failed(one) for run, one in ended if one.state == TrialState.FAIL}
    return [
        f"{config.checkpointdir} has not ended: {failed.get(place_of(config), 'it was taken back')}"
        for config, _ in left
        if _state_of(config) != _COMPLETE
    ]


def _about(config: RunConfig) -> dict[str, Any]:
    """Return what whoever takes a run has to know."""
    return {"config": plain_values(config), "digests": _digests(config)}


def _clear(queue: Queue, wanted: Mapping[str, RunConfig]) -> set[str]:
    """Return the open runs, without those of other settings than are `wanted`.

    These wait no longer. When nobody is at work, this is so of whatever else waits: whoever began
    it has given it up. Raises InputError when somebody trains one of other settings.
    """
    trials = [one for one in queue.trials if one.state in (TrialState.WAITING, TrialState.RUNNING)]
    is_at_work = any(one.state == TrialState.RUNNING for one in trials)
    there = set()
    for trial in trials:
        run, config = run_of(trial), wanted.get(run_of(trial))
        if trial.state == TrialState.RUNNING:
            with damaged_study(queue.storage):
                found = make_config(RunConfig, trial.user_attrs["config"], run).outcome
                found |= trial.user_attrs["digests"]
            if config is not None and found != config.outcome | _digests(config):
                raise InputError(
                    f"Another process trains {config.checkpointdir} with other settings or data; "
                    f"end it, or wait (one that was killed: {database.LEASE} seconds)."
                )
            there.add(run)
        elif is_at_work if config is None else _about(config).items() <= trial.user_attrs.items():
            there.add(run)
        else:
            queue.take_back(trial, "a later command took it back")
    return there


def work_on_runs(queue: Queue, folder: Path, given: Mapping[str, Any]) -> None:
    """Take runs of a comparison in `folder` until all have ended.

    `given` are this machine's settings. Raises InputError when the data here are others.
    """

    def config_of(attributes: Mapping[str, Any]) -> RunConfig:
        run = folder / attributes[RUN]
        values = {**attributes["config"], **recorded(given), "checkpointdir": str(run)}
        return make_config(RunConfig, values, str(run))

    def options_of(config: RunConfig) -> LoaderOptions:
        return make_options(replace(config, **given), SINGLE_PROCESS)

    def check(trial: FrozenTrial) -> None:
        with damaged_study(queue.storage):
            config, expected = config_of(trial.user_attrs), dict(trial.user_attrs["digests"])
        options_of(config)  # that there is its device
        config_class(config.model_name)  # and its model
        for name, digest in _digests(config).items():
            if expected.get(name) != digest:
                what = config.finetune_bert if name == _BERT else config.data_folder / name
                raise InputError(
                    f"{what} is not what {folder} is a comparison on; give the same data "
                    "(--datadir) and BERT."
                )

    def train_taken(trial: optuna.Trial) -> float:
        attributes = trial.user_attrs

        def report(epoch: Epoch) -> None:
            trial.report(epoch.number, epoch.number)  # raises when it is no longer this process's

        config = config_of(attributes)
        train_run(config, attributes.get("title", "Run"), options_of(config), report)
        return 0.0  # Optuna wants a value; scores are in the run's folder

    queue.work(train_taken, check, after=lambda: None)


def _digests(config: RunConfig) -> dict[str, str]:
    digests = {name: Split(config.data_folder / name).digest for name in SPLITS}
    bert = bert_in_folder(config)
    return digests if bert is None else {**digests, _BERT: bert}


def _state_of(config: RunConfig) -> str:
    """Return how far a run is; raises InputError when its folder holds one of other settings."""
    run = read_run(config.checkpointdir)
    if run is None:
        return _NEW
    found = run.config.outcome | run.digests | {_BERT: run.bert}
    for name, value in (config.outcome | _digests(config)).items():
        is_known = name != _BERT or run.bert is not None  # it was trained along
        if is_known and found.get(name) != value:
            there, this = differing(found.get(name), value)
            raise InputError(
                f"{run.folder} holds a run with {name} {there}, this one is {this}; "
                "give the same settings and data, another --checkpointdir, or --overwrite."
            )
    if run.result is not None:
        return _COMPLETE
    # What was killed before it saved anything has nothing to go on with.
    return _GOES_ON if (run.folder / LAST).is_file() else _AGAIN
