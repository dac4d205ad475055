"""Taking part in a comparison or a search that others began."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.console import print_line
from system.errors import InputError
from system.processes import Processes
from utils.studies import comparison
from utils.studies import search as searching
from utils.studies.queue import Queue, refuse_several
from utils.studies.storage import Storage, holds_studies


def work_in(folder: Path, places: Mapping[str, Any], url: str | None, processes: Processes) -> None:
    """Take what waits in a folder, one after the other, until all has ended.

    `places` are this machine's settings, such as where the data lie. Raises InputError when
    nothing was begun in the folder, or when the data here are others.
    """
    refuse_several(processes, folder)
    if not holds_studies(folder):
        raise InputError(
            f"{folder} holds no comparison and no search; begin one there with --compare or "
            "--tune, or give its folder."
        )
    storage = Storage(folder, url)
    if searching.NAME in storage.names:
        search, queue = searching.find_search(storage, places)
        search.work(queue, len({*searching.ended_runs(queue), *queue.open_runs}))
    for name in storage.names:
        if name != searching.NAME:
            comparison.work_on_runs(Queue(storage.load(name), storage), folder, places)
    print_line(f"Nothing waits in {folder} any more")
