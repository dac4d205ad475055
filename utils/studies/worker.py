"""Taking part in a comparison or a search that others began."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.console import print_line
from system.errors import InputError
from system.processes import Processes
from utils.studies import comparison, database
from utils.studies import search as searching
from utils.studies.queue import Queue, refuse_several
from utils.studies.search_report import write_search, write_trials
from utils.studies.storage import Storage, holds_studies, telling_of_storage
from utils.studies.tune import chosen_config


def work_in(folder: Path, given: Mapping[str, Any], url: str | None, processes: Processes) -> None:
    """Take what waits in a folder, one after the other, until all has ended.

    `given` are this machine's settings, such as its device, and where the data lie. Raises
    InputError when nothing was begun in the folder, or when the data here are others.
    """
    refuse_several(processes, folder)
    if not holds_studies(folder):
        raise InputError(
            f"{folder} holds no comparison and no search; begin one there with --compare or "
            "--tune, or give its folder."
        )
    storage = Storage(folder, url)
    if searching.NAME in storage.names:
        _work_on_search(storage, given)
    elif comparison.NAME in storage.names:
        comparison.work_on_runs(Queue(storage.load(comparison.NAME), storage), folder, given)
    print_line(f"Nothing waits in {folder} any more")


def _work_on_search(storage: Storage, given: Mapping[str, Any]) -> None:
    """Take trials, and trainings of what they chose; then write what whoever began it writes.

    That is the last of those who work: what is written before is written anew.
    """
    search, queue = searching.find_search(storage, given)
    runs, is_new = None, True
    while is_new:
        search.work(queue, len(queue.runs), lambda: write_trials(search, queue))
        if searching.best_trial(queue) is None:
            return
        chosen = chosen_config(search, queue)
        write_search(search, queue, chosen)
        runs = _runs_of_chosen(storage.folder / searching.CHOSEN, storage.url)
        is_new = bool(queue.open_runs)  # trials that another --tune has added meanwhile
    if runs is not None:
        comparison.work_on_runs(runs, runs.storage.folder, given)
        write_search(search, queue, chosen)


def _runs_of_chosen(folder: Path, url: str | None) -> Queue | None:
    """Return the trainings of what a search chose, if whoever began it hands them out soon."""
    until = time.monotonic() + database.LEASE
    while True:
        if holds_studies(folder) and comparison.NAME in (storage := Storage(folder, url)).names:
            queue = Queue(storage.load(comparison.NAME), storage)
            with telling_of_storage(storage):
                if queue.trials:
                    return queue
        if time.monotonic() > until:
            return None
        time.sleep(database.BEAT)
