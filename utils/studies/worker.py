"""Working on a comparison or a search that another process began."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.console import print_line
from system.errors import InputError
from system.processes import Processes
from utils.studies import database
from utils.studies import search as searching
from utils.studies.comparison_queue import NAME, work_on_runs
from utils.studies.queue import Queue, refuse_several
from utils.studies.search_report import write_search, write_trials
from utils.studies.storage import Storage, holds_studies
from utils.studies.tune import chosen_config


def work_in(
    folder: Path, local_settings: Mapping[str, Any], url: str | None, processes: Processes
) -> None:
    """Take the runs that wait in a folder, one after the other, until all have ended.

    `local_settings` are this machine's, such as device and data folder. Raises InputError when the
    folder has no comparison or search, or when the data here differ from its data.
    """
    refuse_several(processes, folder)
    if not holds_studies(folder):
        raise InputError(
            f"{folder} holds no comparison and no search; begin one there with --compare or "
            "--tune, or give its folder."
        )
    storage = Storage(folder, url)
    if searching.NAME in storage.names:
        _work_on_search(storage, local_settings)
    elif NAME in storage.names:
        queue = Queue(storage.load(NAME), storage)
        work_on_runs(queue, folder, local_settings)
    print_line(f"Nothing waits in {folder} any more")


def _work_on_search(storage: Storage, local_settings: Mapping[str, Any]) -> None:
    """Take trials, then trainings of the chosen configuration; write the files of the search.

    Each process writes them, so the last one to finish leaves the complete files.
    """
    search, queue = searching.find_search(storage, local_settings)
    runs, has_new_trials = None, True
    while has_new_trials:
        search.work(queue, len(queue.runs), lambda: write_trials(search, queue))
        if queue.best is None:
            return
        chosen = chosen_config(search, queue)
        write_search(search, queue, chosen)
        runs = _runs_of_chosen(storage.folder / searching.CHOSEN, storage.url)
        has_new_trials = bool(queue.open_runs)  # which another --tune has added meanwhile
    if runs is not None:
        work_on_runs(runs, runs.storage.folder, local_settings)
        write_search(search, queue, chosen)


def _runs_of_chosen(folder: Path, url: str | None) -> Queue | None:
    """Return the queue of the final trainings; None when --tune does not fill it within a lease."""
    deadline = time.monotonic() + database.LEASE
    while True:
        if holds_studies(folder) and NAME in (storage := Storage(folder, url)).names:
            queue = Queue(storage.load(NAME), storage)
            if queue.trials:
                return queue
        if time.monotonic() > deadline:
            return None
        time.sleep(database.BEAT)
