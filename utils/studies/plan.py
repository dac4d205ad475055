"""The runs of a comparison, and their folders."""

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


def recorded(local_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a worker's local settings that its runs record: paths and display.

    The others say how its machine executes a run, which is no part of the study.
    """
    return {name: value for name, value in local_settings.items() if name not in MACHINE_SETTINGS}


def run_name(config: RunConfig) -> str:
    """Return the name of a run: `<name>/seed<N>`, its folder below the study's."""
    return "/".join(config.checkpointdir.parts[-2:])
