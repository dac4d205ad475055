"""Runs that were made, as their `run.json` tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.layout import SPLITS
from system.config import make_config
from system.errors import InputError, first_line
from utils.run_config import RunConfig
from utils.tasks import TASKS, Task
from utils.training.provenance import RunResult, read_record
from utils.training.run_folder import RUN_FILE

_ENVIRONMENT = ("command", "versions", "revision", "machine")


@dataclass(frozen=True)
class Run:
    """One run."""

    folder: Path
    config: RunConfig
    scale: str  # whose labels its data has
    digests: dict[str, str]  # of the splits
    result: RunResult | None  # None until it has ended
    environment: dict[str, Any]  # what it ran on and what ran, as far as its record tells
    bert: str | None = None  # the origin of its text encoder, likewise
    started: str = ""  # the time, likewise

    @property
    def task(self) -> Task:
        """What it predicts."""
        return TASKS[self.config.task_name][self.scale]

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its outcome but the seed: settings, the model's own too, data and BERT.

        `data` is of the three splits: runs that are tested on the same may be trained on others.
        """
        outcome = self.config.outcome
        own = outcome.pop("set")
        del outcome["seed"]
        data = "/".join(self.digests[name][:8] for name in SPLITS if name in self.digests)
        settings = {**outcome, **own, "data": data}
        if self.bert is not None:  # a name, and what tells its weights
            settings["bert"] = self.bert.rpartition(", ")[2][:8]
        return settings


def read_run(folder: Path) -> Run | None:
    """Return the run of a folder, None without one; raises InputError when it is damaged.

    What a search chose is no run yet.
    """
    record, path = read_record(folder), folder / RUN_FILE
    if record is None or "search" in record:
        return None
    try:
        config = make_config(RunConfig, record["config"], str(path))
        result = RunResult(**record["result"]) if record.get("result") else None
        scale, digests = record["dataset"]["scores"], record["dataset"]["digests"]
        told = {name: record[name] for name in _ENVIRONMENT if name in record}
        origin, started = record.get("bert"), str(record.get("started", ""))
        run = Run(folder, config, scale, digests, result, told, origin, started)
        _ = run.task, run.settings, digests["test"]  # can be told
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no record of a run ({first_line(error)}); train it anew."
        ) from error
    return run


def find_runs(places: Iterable[Path]) -> list[Run]:
    """Return the runs in these folders and below them, each once.

    Raises InputError when there is none in one of them.
    """
    runs: dict[Path, Run | None] = {}
    for place in places:
        folders = sorted(path.parent for path in place.rglob(RUN_FILE))
        found = {folder.resolve(): read_run(folder) for folder in folders}
        if not any(found.values()):
            raise InputError(
                f"No run in {place} (no {RUN_FILE} that can be read); give the folders of runs."
            )
        runs |= found
    return [run for run in runs.values() if run is not None]
