"""A comparison: several models, each trained with several seeds, and their table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from data.loading.split import Split
from system.console import print_heading
from system.errors import InputError
from system.processes import Processes
from utils.run_config import RunConfig
from utils.running.setup import find_task, make_options, open_training
from utils.studies.comparison_queue import NAME, train_queue
from utils.studies.report import tabulate
from utils.studies.run_states import (
    AGAIN,
    COMPLETE,
    GOES_ON,
    remove_runs,
    run_name,
    runs_of_studies,
    state_of,
    train_run,
)
from utils.studies.runs import read_run
from utils.studies.storage import Storage, holds_studies
from utils.training.run_folder import LAST, RUN_FILE


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
    states = [AGAIN if overwrite else state_of(config) for config in runs]
    folder = runs[0].checkpointdir.parent.parent
    _check_tasks(runs, folder)
    _check_models(runs, states, processes)
    pending = []
    for number, (config, state) in enumerate(zip(runs, states, strict=True), start=1):
        title = f"Run {number} of {len(runs)}"
        if dry_run or state == COMPLETE:
            work = f", {config.epochs} epochs in batches of {config.batch_size}"
            text = state if state == COMPLETE else state + work
            print_heading(f"{title}, {config.checkpointdir}: {text}")
        else:
            pending.append((config, title))
    if dry_run:
        if holds_studies(folder) and set(states) != {COMPLETE}:
            Storage(folder, url).check(NAME, {})  # raises where it is a search's
        return
    unended: list[str] = []
    if processes.count == 1:
        unended = train_queue(pending, folder, url, overwrite)
    else:
        if overwrite:
            if processes.is_first:
                remove_runs([config for config, _ in pending])
            processes.highest(0)  # all processes wait here until the files are removed
        for config, title in pending:
            train_run(config, title, make_options(config, processes))
    if processes.is_first and len(unended) < len(runs):
        tabulate(runs_of_studies(folder), folder)
    if unended:
        raise InputError(f"{'; '.join(unended)}; run the same command again to train the rest")


def plan_runs(
    configs: Mapping[str, RunConfig], seeds: Sequence[int] | None = None
) -> list[RunConfig]:
    """Return one run per configuration and seed, in folders `<name>/seed<N>`.

    Without `seeds`, each configuration has one run with its own seed. Raises InputError for a
    configuration that starts from a checkpoint or saves nothing, and for two of the same folder.
    """
    refuse_unsaved(configs.values())
    names: dict[str, str] = {}  # by folder
    for name in configs:
        folder = re.sub(r"[^\w.,=-]+", "_", name)
        earlier = names.setdefault(folder, name)
        if earlier != name:
            raise InputError(f"{earlier} and {name} would share the folder {folder}; rename one.")
    runs = []
    for folder, name in names.items():
        config = configs[name]
        config = replace(config, checkpointdir=config.checkpointdir / folder, task=config.task_name)
        runs += [config.for_seed(seed) for seed in seeds or [config.seed]]
    return runs


def refuse_unsaved(configs: Iterable[RunConfig]) -> None:
    """Raise InputError for a configuration that starts from a checkpoint or saves nothing."""
    if any(config.checkpoint is not None or not config.save for config in configs):
        raise InputError(
            "A comparison or search trains from scratch and needs the files of each run: leave "
            "--checkpoint and --no_save out."
        )


def _check_tasks(runs: Sequence[RunConfig], folder: Path) -> None:
    """Raise InputError unless these runs and the ended ones in `folder` have one task and scale."""
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
        resumed = config.checkpointdir / LAST if state == GOES_ON else None
        setup = repr(replace(config, seed=0, checkpointdir=Path())), resumed
        if state != COMPLETE and setup not in checked:
            checked.add(setup)
            try:
                with redirect_stdout(None):  # each run prints this itself
                    open_training(config, resumed=resumed, processes=processes)
            except InputError as error:
                raise InputError(f"{run_name(config)}: {error}") from error
