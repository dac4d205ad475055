"""Several models, each trained over seeds in a folder of its own, to one table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data.layout import SPLITS
from data.loading.split import Split
from system.console import print_heading
from system.errors import InputError
from system.processes import Processes
from utils.run_config import RunConfig
from utils.running.setup import make_options
from utils.studies.report import tabulate, write_study
from utils.studies.runs import read_run
from utils.training.run import train
from utils.training.run_folder import LAST, RUN_FILE

_NEW, _AGAIN, _GOES_ON, _COMPLETE = "new", "begins again", "goes on", "complete"


def run_study(
    configs: Mapping[str, RunConfig],
    seeds: Sequence[int] | None,
    processes: Processes,
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Train each of the named configurations once per seed, and write the table of their folder.

    Runs that are complete are not trained again, unless `overwrite` says so, and one that was
    interrupted goes on. The table is written after each run, of all studies in the folder, those
    of earlier days too. Raises InputError when a run of other settings or data is in the way.
    """
    runs = plan_runs(configs, seeds)
    states = [_AGAIN if overwrite else _state_of(config) for config in runs]
    folder = runs[0].checkpointdir.parent.parent
    for number, (config, state) in enumerate(zip(runs, states, strict=True), start=1):
        print_heading(f"Run {number} of {len(runs)}, {config.checkpointdir}: {state}")
        if state != _COMPLETE and not dry_run:
            resume = "auto" if state == _GOES_ON else None
            train(config, make_options(config, processes), resume, overwrite=state == _AGAIN)
            if processes.is_first:
                write_study(_runs_of_studies(folder), folder)
    if processes.is_first and not dry_run:
        tabulate(_runs_of_studies(folder), folder)


def _runs_of_studies(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/seed*/{RUN_FILE}"))


def plan_runs(
    configs: Mapping[str, RunConfig], seeds: Sequence[int] | None = None
) -> list[RunConfig]:
    """Return the run of each configuration and seed, in folders `<name>/seed<N>`.

    Without seeds each has its own. Raises InputError for a configuration that starts from a
    checkpoint, or keeps nothing.
    """
    if any(config.checkpoint is not None or not config.save for config in configs.values()):
        raise InputError(
            "A comparison trains from the start and needs what a run writes: leave --checkpoint "
            "and --no_save out."
        )
    return [
        _in_folder(config, name).for_seed(seed)
        for name, config in configs.items()
        for seed in seeds or [config.seed]
    ]


def _in_folder(config: RunConfig, name: str) -> RunConfig:
    folder = config.checkpointdir / re.sub(r"[^\w.,=-]+", "_", name)
    return replace(config, checkpointdir=folder, task=config.task_name)


def _state_of(config: RunConfig) -> str:
    """Return how far a run is; raises InputError when its folder holds one of other settings."""
    run = read_run(config.checkpointdir)
    if run is None:
        return _NEW
    digests = {name: Split(config.data_folder / name).digest for name in SPLITS}
    found = run.config.outcome | run.digests
    for name, value in (config.outcome | digests).items():
        if found[name] != value:
            raise InputError(
                f"{run.folder} holds a run with {name} {found[name]}, this one is {value}; give "
                "the same settings and data, another --checkpointdir, or --overwrite."
            )
    if run.result is not None:
        return _COMPLETE
    # What was killed before it saved anything has nothing to go on with.
    return _GOES_ON if (run.folder / LAST).is_file() else _AGAIN
