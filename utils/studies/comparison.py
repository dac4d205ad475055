"""Several models, each trained over seeds in a folder of its own, to one table."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from data.layout import SPLITS
from data.loading.split import Split
from system.config import make_config, plain_values
from system.console import print_heading
from system.errors import InputError
from system.processes import SINGLE_PROCESS, Processes
from utils.run_config import RunConfig
from utils.running.setup import make_options
from utils.studies.queue import RUN, Queue, run_of, why_failed
from utils.studies.report import tabulate, write_study
from utils.studies.runs import read_run
from utils.studies.storage import Storage, damaged_study
from utils.training.run import train
from utils.training.run_folder import LAST, RUN_FILE, open_run_folder

NAME = "comparison"  # what its studies' names begin with
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
            _print_state(config, title, state)
        else:
            left.append((config, title))
    if dry_run:
        return
    if overwrite:
        _remove([config for config, _ in left], processes)
    if processes.count == 1:
        _hand_out(left, folder, url)
    else:
        for config, title in left:
            train_run(config, title, processes)
    if processes.is_first:
        tabulate(runs_of_studies(folder), folder)


def _print_state(config: RunConfig, title: str, state: str) -> None:
    print_heading(f"{title}, {config.checkpointdir}: {state}")


def _remove(runs: Sequence[RunConfig], processes: Processes) -> None:
    """Remove what earlier runs wrote into these folders."""
    for config in runs:
        if processes.is_first:
            with open_run_folder(config.checkpointdir, None, overwrite=True):
                pass
    processes.highest(0)  # none begins before


def train_run(config: RunConfig, title: str, processes: Processes) -> None:
    """Train one run as far as it is not yet, and write the table of its study."""
    state = _state_of(config)
    _print_state(config, title, state)
    if state != _COMPLETE:
        resume = "auto" if state == _GOES_ON else None
        train(config, make_options(config, processes), resume, overwrite=state == _AGAIN)
    if processes.is_first:
        folder = config.checkpointdir.parent.parent
        write_study(runs_of_studies(folder), folder)


def _hand_out(left: Sequence[tuple[RunConfig, str]], folder: Path, url: str | None) -> None:
    """Let the runs wait in the folder's database, and take them as long as there are any."""
    if not left:
        return
    storage = Storage(folder, url)
    about = {_place(config): {**config.outcome, "data": _digests(config)} for config, _ in left}
    queue = Queue(storage.create(f"{NAME} {_short_digest(about)}", {}), storage)
    with storage.alone():
        waiting = queue.open_runs
        for config, title in left:
            if _place(config) not in waiting:
                data = {"config": plain_values(config), "digests": _digests(config)}
                queue.add(_place(config), {"title": title, **data})
    work_on_runs(queue, folder)
    failed = {run_of(one): why_failed(one) for one in queue.trials if one.state == TrialState.FAIL}
    for config, _ in left:
        if _state_of(config) != _COMPLETE:
            why = failed.get(_place(config), "it was taken back")
            raise InputError(f"{config.checkpointdir} has not ended: {why}")


def work_on_runs(queue: Queue, folder: Path, places: Mapping[str, Any] | None = None) -> None:
    """Take runs of a comparison in `folder` until all have ended.

    `places` are this machine's settings. Raises InputError when the data here are others.
    """

    def config_of(attributes: Mapping[str, Any]) -> RunConfig:
        run = folder / attributes[RUN]
        values = {**attributes["config"], **(places or {}), "checkpointdir": str(run)}
        return make_config(RunConfig, values, str(run))

    def check(trial: FrozenTrial) -> None:
        with damaged_study(queue.storage):
            config, expected = config_of(trial.user_attrs), dict(trial.user_attrs["digests"])
        for name, digest in _digests(config).items():
            if expected.get(name) != digest:
                raise InputError(
                    f"{config.data_folder / name} is not what {folder} is a comparison on; give "
                    "the same data: --datadir."
                )

    def train_taken(trial: optuna.Trial) -> float:
        attributes = trial.user_attrs
        train_run(config_of(attributes), attributes.get("title", "Run"), SINGLE_PROCESS)
        return 0.0  # Optuna wants a value; scores are in the run's folder

    queue.work(train_taken, check, after=lambda: None)


def _place(config: RunConfig) -> str:
    """Return the name of a run: its folder in the study's."""
    return "/".join(config.checkpointdir.parts[-2:])


def _digests(config: RunConfig) -> dict[str, str]:
    return {name: Split(config.data_folder / name).digest for name in SPLITS}


def _short_digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def runs_of_studies(folder: Path) -> list[Path]:
    """Return the folders of the runs in a study's folder."""
    return sorted(path.parent for path in folder.glob(f"*/seed*/{RUN_FILE}"))


def plan_runs(
    configs: Mapping[str, RunConfig], seeds: Sequence[int] | None = None
) -> list[RunConfig]:
    """Return the run of each configuration and seed, in folders `<name>/seed<N>`.

    Without seeds each has its own. Raises InputError for a configuration that starts from a
    checkpoint, or keeps nothing.
    """
    refuse_unsaved(configs.values())
    return [
        _in_folder(config, name).for_seed(seed)
        for name, config in configs.items()
        for seed in seeds or [config.seed]
    ]


def refuse_unsaved(configs: Iterable[RunConfig]) -> None:
    """Raise InputError for a configuration that starts from a checkpoint, or keeps nothing."""
    if any(config.checkpoint is not None or not config.save for config in configs):
        raise InputError(
            "A comparison or search trains from the start and needs what a run writes: leave "
            "--checkpoint and --no_save out."
        )


def _in_folder(config: RunConfig, name: str) -> RunConfig:
    folder = config.checkpointdir / re.sub(r"[^\w.,=-]+", "_", name)
    return replace(config, checkpointdir=folder, task=config.task_name)


def _state_of(config: RunConfig) -> str:
    """Return how far a run is; raises InputError when its folder holds one of other settings."""
    run = read_run(config.checkpointdir)
    if run is None:
        return _NEW
    found = run.config.outcome | run.digests
    for name, value in (config.outcome | _digests(config)).items():
        if found[name] != value:
            raise InputError(
                f"{run.folder} holds a run with {name} {found[name]}, this one is {value}; give "
                "the same settings and data, another --checkpointdir, or --overwrite."
            )
    if run.result is not None:
        return _COMPLETE
    # What was killed before it saved anything has nothing to go on with.
    return _GOES_ON if (run.folder / LAST).is_file() else _AGAIN
