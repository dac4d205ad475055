"""A whole search: its trials, then the test scores of the configuration that it chose."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from models.registry import search_space
from system.console import print_heading, print_line
from system.errors import InputError
from system.files import check_writable
from system.passwords import without_passwords
from system.processes import SINGLE_PROCESS, Processes
from utils.run_config import RunConfig
from utils.studies.comparison import refuse_unsaved, run_study
from utils.studies.queue import Queue, refuse_several, why_failed
from utils.studies.search import CHOSEN, NAME, Search, progress_line
from utils.studies.search_report import write_search, write_trials
from utils.studies.space import describe, read_space, with_values
from utils.studies.storage import Storage, holds_studies

_CLOSED = "closed"  # attribute of a study: no more trials, as the test split is opened


def make_search(config: RunConfig, space: Path | None, fixed: Collection[str]) -> Search:
    """Return the search around a configuration, with its default model and task spelled out.

    The space is read from the file `space`, else from the model's own, without `fixed` settings.
    Raises InputError when the space is invalid, or when model and data do not fit each other.
    """
    config = replace(config, model=config.model_name, task=config.task_name)
    refuse_unsaved([config])
    path = search_space(config.model_name) if space is None else space
    search = Search(config, read_space(path, config, fixed))
    search.check()
    return search


def tune(
    search: Search,
    count: int,
    seeds: Sequence[int] | None = None,
    url: str | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> None:
    """Run trials until there are `count`; then train the best configuration per seed, and test it.

    Trials of earlier calls and of other processes count too: all share one folder, whose trials
    are in the database of `url`, else in the folder. Raises InputError when the folder holds
    another search, or when no trial succeeds.
    """
    config = search.config
    refuse_several(processes, config.checkpointdir)
    storage = Storage(config.checkpointdir, url)
    queue = search.open(storage)
    check_writable(config.resultdir)  # fail now, not after the last trial
    count = _add_trials(search, queue, count)
    chosen = None
    while chosen is None:
        search.work(queue, count, lambda: write_trials(search, queue))
        chosen = _choose(search, queue)
    write_search(search, queue, chosen)
    print_heading("The chosen configuration, on the test split")
    run_study({config.model_name: chosen}, seeds, SINGLE_PROCESS, url=storage.url)
    write_search(search, queue, chosen)
    print_line(f"In {config.checkpointdir}: run.json, trials.csv, search.png and report.html")


def _add_trials(search: Search, queue: Queue, count: int) -> int:
    """Enqueue as many trials as are missing, unless the test split has been opened.

    Returns the number of trials after that.
    """
    with queue.storage.locked():
        existing = len(queue.runs)
        _refuse_more(queue, count)
        for number in range(existing + 1, count + 1):
            queue.add(str(number), {})
        count = max(existing, count)
        if existing:
            print_line(f"Goes on: {progress_line(queue, search.task.chosen_by, count)}")
    return count


def _refuse_more(queue: Queue, count: int) -> None:
    """Raise InputError for more trials than a search has whose test split has been opened."""
    existing = len(queue.runs)
    if existing < count and queue.attributes.get(_CLOSED):
        raise InputError(
            f"{queue.storage.folder}: the test split was opened for the best of {existing} trials, "
            "so no more can be added; give another --checkpointdir."
        )


def _choose(search: Search, queue: Queue) -> RunConfig | None:
    """Return the best configuration and close the search; None when trials were added meanwhile."""
    with queue.storage.locked():
        if queue.open_runs:
            return None
        chosen = chosen_config(search, queue)
        _close(queue)
        return chosen


def _close(queue: Queue) -> None:
    queue.study.set_user_attr(_CLOSED, True)


def chosen_config(search: Search, queue: Queue) -> RunConfig:
    """Return the configuration of the best trial; raises InputError when none succeeded."""
    best = queue.best
    if best is None:
        raise InputError(
            f"No trial of {search.config.checkpointdir} ended well; the last one failed: "
            f"{why_failed(queue.trials[-1])}"
        )
    folder = search.config.checkpointdir / CHOSEN
    return replace(with_values(search.config, best.params), checkpointdir=folder)


def dry_run_search(search: Search, count: int, url: str | None = None) -> None:
    """Print what a search would do; writes nothing.

    Raises InputError where the search would: in a folder of another study or of a closed search.
    """
    folder, splits = search.config.checkpointdir, search.splits
    state = "new"
    if holds_studies(folder):
        storage = Storage(folder, url)
        study = storage.check(NAME, search.identity)
        if study is not None:
            _refuse_more(Queue(study, storage), count)
            state = "goes on"
    print_line(f"Search of {count} trials in {folder}: {state}")
    location = folder if url is None else without_passwords(url)
    print_line(f"trials are kept in {location}; the best is trained in {folder / CHOSEN}")
    for name, split in splits.items():
        print_line(f"{name:<9} {len(split):,} segments of {split.folder}")
    print_line(f"chosen by validation {search.task.chosen_by.name}, among:")
    for name, values in search.space.items():
        print_line(f"  {name}: {describe(values)}")
