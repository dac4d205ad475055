"""Trained runs, read from their `run.json`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.layout import SPLITS
from data.loading.split import Split
from system.config import make_config
from system.console import print_line
from system.errors import InputError, first_line, shown
from utils.run_config import RunConfig
from utils.tasks import TASKS, Task
from utils.training.provenance import RunResult
from utils.training.run_folder import RUN_FILE, holds_search, read_record, written_files

_ENVIRONMENT = ("command", "versions", "revision", "machine")


@dataclass(frozen=True)
class Run:
    """One run."""

    folder: Path
    config: RunConfig
    scale: str  # name of the label scale of its data
    digests: dict[str, str]  # by split
    result: RunResult | None  # None until it has ended
    environment: dict[str, Any]  # command, versions, revision, machine, as far as recorded
    bert: str | None = None  # origin of its text encoder, if recorded
    model_digest: str | None = None  # of the file of a user's own model, if recorded
    checkpoint_digest: str | None = None  # of the weights that it started from, if recorded
    started: str = ""  # time, if recorded

    @property
    def task(self) -> Task:
        """The task that it was trained for."""
        return TASKS[self.config.task_name][self.scale]

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides its outcome except the seed: run and model settings, data and files.

        `data` has the digests of all splits: runs with the same test split may differ in training.
        """
        outcome = self.config.outcome
        model_settings = outcome.pop("set")
        del outcome["seed"]
        outcome["loss"] = outcome["loss"] or self.task.loss_name  # named or not, the same loss
        data = "/".join(self.digests[name][:8] for name in SPLITS if name in self.digests)
        settings = {**outcome, **model_settings, "data": data}
        if self.bert is not None:  # "<name>, <digest of the weights>"
            settings["bert"] = self.bert.rpartition(", ")[2][:8]
        if self.model_digest is not None:
            settings["model_file"] = self.model_digest[:8]
        if self.config.checkpoint is not None:
            digest = self.checkpoint_digest
            settings["checkpoint"] = str(self.config.checkpoint) if digest is None else digest[:8]
        return settings


def read_run(folder: Path) -> Run | None:
    """Return the run of a folder, None without one; raises InputError when its record is damaged.

    A `run.json` with the configuration that a search chose is not a run yet.
    """
    record, path = read_record(folder), folder / RUN_FILE
    if record is None or "search" in record:
        return None
    try:
        config = make_config(RunConfig, record["config"], str(path))
        result = _result_of(record["result"]) if record.get("result") else None
        scale, digests = record["dataset"]["scores"], record["dataset"]["digests"]
        environment = {name: record[name] for name in _ENVIRONMENT if name in record}
        origin, started = record.get("bert"), str(record.get("started", ""))
        others = _text_of(record, "model_digest"), _text_of(record, "checkpoint_digest")
        run = Run(folder, config, scale, digests, result, environment, origin, *others, started)
        _ = run.task, run.settings, digests["test"]  # raise now if these cannot be derived
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path} is not a valid record of a run ({first_line(error)}); train it again."
        ) from error
    return run


def _result_of(values: dict[str, Any]) -> RunResult:
    """Return a recorded result; raises TypeError or OverflowError where it is not of numbers."""
    result = RunResult(**values)
    numbers = {**vars(result), **result.scores}
    del numbers["scores"]
    if result.flops is None:
        del numbers["flops"]
    for name, value in numbers.items():
        if not isinstance(value, (int, float)):
            raise TypeError(f"{name} is {shown(value)}, expected a number")
        float(value)  # raises OverflowError where it is too large
    return result


def _text_of(record: dict[str, Any], name: str) -> str | None:
    """Return a recorded text, None without one; raises TypeError where it is something else."""
    value = record.get(name)
    if not isinstance(value, (str, type(None))):
        raise TypeError(f"{name} is {shown(value)}, expected text")
    return value


def have_same_test(runs: Sequence[Run]) -> bool:
    """Return whether all runs were tested on the same segments and labels.

    Where their test splits differ, perhaps in the features alone, those must still be there.
    """
    digests = {run.digests["test"] for run in runs}
    if len(digests) == 1:
        return True
    splits = open_tests(runs)
    if not digests <= splits.keys():
        return False
    columns, (first, *others) = runs[0].task.columns, [splits[digest] for digest in digests]
    return all(
        other.ids == first.ids
        and np.array_equal(other.labels[:, columns], first.labels[:, columns])
        for other in others
    )


def open_tests(runs: Sequence[Run]) -> dict[str, Split]:
    """Return, by digest, the test splits that are in the data folders of these runs."""
    splits: dict[str, Split] = {}
    for folder in dict.fromkeys(run.config.data_folder / "test" for run in runs):
        with suppress(InputError, OSError):  # the folder may be gone
            split = Split(folder)
            splits.setdefault(split.digest, split)
    return splits


def refuse_run(folder: Path) -> None:
    """Raise InputError when `folder`, which is to be a search's, holds a run.

    Both write a `run.json`, so a search would replace the record of the run.
    """
    files = written_files(folder)
    if files and not holds_search(folder):
        raise InputError(f"{folder} holds a run ({files[0].name}); give another --checkpointdir.")


def find_runs(roots: Iterable[Path]) -> list[Run]:
    """Return the runs in these folders and below them, each once; print which cannot be read.

    Raises InputError when one of the folders has none.
    """
    runs: dict[Path, Run | None] = {}
    for root in roots:
        folders = sorted(path.parent for path in root.rglob(RUN_FILE))
        runs_here = {folder.resolve(): read_run(folder) for folder in folders}
        if not any(runs_here.values()):
            raise InputError(
                f"No run in {root} (no {RUN_FILE} that can be read); give the folders of runs."
            )
        for folder in folders:
            if read_record(folder) is None:
                print_line(f"Not in the table, as its {RUN_FILE} cannot be read: {folder}")
        runs |= runs_here
    return [run for run in runs.values() if run is not None]
