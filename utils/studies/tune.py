"""A search from its beginning to the test scores of what it chose."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from models.registry import build, search_space
from system.console import print_heading, print_line
from system.errors import InputError
from system.files import check_writable
from system.processes import SINGLE_PROCESS, Processes
from utils.run_config import RunConfig
from utils.studies.comparison import refuse_unsaved, run_study, runs_of_studies
from utils.studies.queue import Queue, refuse_several, why_failed
from utils.studies.search import Search, best_trial, ended_runs, progress_line
from utils.studies.search_files import write_trials
from utils.studies.search_report import write_search
from utils.studies.space import describe, read_space, with_values
from utils.studies.storage import Storage, holds_studies, telling_of_storage

_CHOSEN = "tuned"  # the folder of the runs that the test split is opened for


def make_search(config: RunConfig, space: Path | None, given: Collection[str]) -> Search:
    """Return the search around a configuration, whose model, task and loss get their names.

    The space is that of a file, else the model's own, without the settings that are `given`.
    Raises InputError when it cannot be, or when model and data do not go together.
    """
    config = replace(config, model=config.model_name, task=config.task_name)
    refuse_unsaved([config])
    path = search_space(config.model_name) if space is None else space
    search = Search(config, read_space(path, config, given))
    widths, outputs = search.splits["train"].widths, len(search.task.outputs)
    build(config.model_name, config.set, widths, outputs)
    return search


def tune(
    search: Search,
    count: int,
    seeds: Sequence[int] | None = None,
    url: str | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> None:
    """Take part in `count` trials; then train the best configuration once a seed, and test that.

    What earlier calls did counts, and whatever others do meanwhile: all share the folder, whose
    trials are in the database of `url`, else in the folder. Raises InputError when the folder is
    of another search, or when none of the trials ends well.
    """
    config = search.config
    refuse_several(processes, config.checkpointdir)
    storage = Storage(config.checkpointdir, url)
    queue = search.open(storage)
    check_writable(config.resultdir)  # told now, not after the last trial
    with telling_of_storage(storage):
        _add_trials(search, queue, storage, count)
        search.work(queue, count, lambda: write_trials(search, queue))
        chosen = chosen_config(search, queue)
        write_search(search, queue, chosen)
    print_heading("The chosen configuration, on the test split")
    run_study({config.model_name: chosen}, seeds, SINGLE_PROCESS)
    with telling_of_storage(storage):
        write_search(search, queue, chosen)
    print_line(f"In {config.checkpointdir}: run.json, trials.csv, search.png and report.html")


def _add_trials(search: Search, queue: Queue, storage: Storage, count: int) -> None:
    """Let as many trials wait as are missing, unless the test split has been opened."""
    with storage.alone():
        there = len({*ended_runs(queue), *queue.open_runs})
        if there < count and runs_of_studies(search.config.checkpointdir / _CHOSEN):
            raise InputError(
                f"{search.config.checkpointdir}: the test split was opened for the best of "
                f"{there} trials, so that no more are made; give another --checkpointdir."
            )
        for number in range(there + 1, count + 1):
            queue.add(str(number), {})
    if there:
        print_line(f"Goes on: {progress_line(queue, search.task.chosen_by, max(there, count))}")


def chosen_config(search: Search, queue: Queue) -> RunConfig:
    """Return the configuration of the best trial; raises InputError when none ended well."""
    best = best_trial(queue)
    if best is None:
        raise InputError(
            f"No trial of {search.config.checkpointdir} ended well; the last one failed: "
            f"{why_failed(queue.trials[-1])}"
        )
    folder = search.config.checkpointdir / _CHOSEN
    return replace(with_values(search.config, best.params), checkpointdir=folder)


def dry_run_search(search: Search, count: int, url: str | None = None) -> None:
    """Print what a search would do; touches nothing."""
    folder, splits = search.config.checkpointdir, search.splits
    has_begun = "goes on" if holds_studies(folder) else "new"
    print_line(f"Search of {count} trials in {folder}: {has_begun}")
    print_line(f"trials are kept in {url or folder}; the best is trained in {folder / _CHOSEN}")
    for name, split in splits.items():
        print_line(f"{name:<9} {len(split):,} segments of {split.folder}")
    print_line(f"chosen by validation {search.task.chosen_by.name}, among:")
    for name, values in search.space.items():
        print_line(f"  {name}: {describe(values)}")
