"""The runs of a comparison: which there are, and in which folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from system.errors import InputError
from utils.run_config import MACHINE_SETTINGS, RunConfig
from utils.training.run_folder import RUN_FILE


def runs_of_studies(folder: Path) -> list[Path]:
    """Return the folders of the runs in a study's folder."""
    return sorted(path.parent for path in folder.glob(f"*/seed*/{RUN_FILE}"))


def plan_runs(
    configs: Mapping[str, RunConfig], seeds: Sequence[int] | None = None
) -> list[RunConfig]:
    """Return the run of each configuration and seed, in folders `<name>/seed<N>`.

    Without seeds each has its own. Raises InputError for a configuration that starts from a
    checkpoint, or keeps nothing, and for two that would share a folder.
    """
    refuse_unsaved(configs.values())
    names: dict[str, str] = {}  # by the folder
    for name in configs:
        folder = re.sub(r"[^\w.,=-]+", "_", name)
        other = names.setdefault(folder, name)
        if other != name:
            raise InputError(f"{other} and {name} would share the folder {folder}; rename one.")
    runs = []
    for folder, name in names.items():
        config = configs[name]
        placed = replace(config, checkpointdir=config.checkpointdir / folder, task=config.task_name)
        runs += [placed.for_seed(seed) for seed in seeds or [config.seed]]
    return runs


def refuse_unsaved(configs: Iterable[RunConfig]) -> None:
    """Raise InputError for a configuration that starts from a checkpoint, or keeps nothing."""
    if any(config.checkpoint is not None or not config.save for config in configs):
        raise InputError(
            "A comparison or search trains from the start and needs what a run writes: leave "
            "--checkpoint and --no_save out."
        )


def recorded(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs of a worker record of its own settings: where things are.

    How it runs them plays no part in what a study is of.
    """
    return {name: value for name, value in given.items() if name not in MACHINE_SETTINGS}


def place_of(config: RunConfig) -> str:
    """Return the name of a run: its folder in the study's."""
    return "/".join(config.checkpointdir.parts[-2:])
