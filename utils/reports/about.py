"""What reports, and files beside them, say of where numbers come from: data, settings, machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.labels import scores_of
from data.loading.split import INPUTS, Split
from data.manifest import read_manifest
from system.config import plain_values
from utils.reports.html import Section, Table
from utils.run_config import RunConfig
from utils.running.environment import command_line, environment
from utils.tasks import Task


def about_run(
    config: RunConfig, splits: Mapping[str, Split], task: Task, device: torch.device
) -> list[Section]:
    """Return the sections on a run's data, configuration and environment."""
    return [
        data_section(config.data_folder, splits, task),
        configuration_section(config),
        environment_section(environment(device)),
    ]


def configuration_section(config: RunConfig) -> Section:
    """Return the command and every setting."""
    values = plain_values(config)
    settings = values.pop("set")
    rows = [("command", command_line()), *values.items(), *settings.items()]
    return Section("Configuration", [Table(["setting", "value"], rows)])


def data_section(
    folder: Path, splits: Mapping[str, Split], task: Task, shown_as: Path | None = None
) -> Section:
    """Return what the prepared dataset in `folder` is, and what those of its splits that are open.

    A temporary folder is `shown_as` what it was made from. Raises InputError when its manifest is
    damaged.
    """
    manifest = read_manifest(folder)
    facts = [("folder", shown_as or folder), ("labels as of", scores_of(manifest))]
    parts: list[Table] = [
        Table(["what", "value"], facts + _facts(manifest)),
        _table_of_splits(manifest["splits"] if manifest else {}, splits, task),
    ]
    if splits:
        shapes = zip(INPUTS, next(iter(splits.values())).shapes, strict=True)
        rows = [(name, *shape) for name, shape in shapes]
        parts.append(Table(["modality", "rows a segment", "width"], rows))
    return Section("Data", parts)


def describe_data(folder: Path, splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return a dataset's title, how it is aligned and scored, and a digest of each of `splits`.

    `folder` has the splits; title and alignment are None where no manifest lies beside them. Word
    pieces that are read for text have digests of their own.
    """
    manifest = read_manifest(folder)
    made_from = manifest["made_from"] if manifest else {}
    pieces = {name: split.pieces_digest for name, split in splits.items() if split.takes_pieces}
    return {
        "dataset": made_from.get("dataset"),
        "alignment": made_from.get("alignment"),
        "scores": scores_of(manifest),
        "digests": {name: split.digest for name, split in splits.items()},
        **({"pieces": pieces} if pieces else {}),
    }


def _facts(manifest: dict[str, Any] | None) -> list[tuple[str, Any]]:
    if manifest is None:
        return [("prepared by", "unknown: there is no dataset.json")]
    made_from, text = manifest["made_from"], manifest["text"] or {}
    left_out = [f"{count:,} because the {reason}" for reason, count in manifest["left_out"].items()]
    unknown = [f"{name} {share:.2%}" for name, share in text.get("unknown_pieces", {}).items()]
    facts = {
        "dataset": made_from.get("dataset"),
        "alignment": made_from.get("alignment"),
        "prepared": manifest.get("made_at"),
        "left out": ", ".join(left_out),
        "text features by": text.get("encoder"),
        "one for each": text.get("per"),
        "unknown word pieces": ", ".join(unknown),
    }
    return [(name, value) for name, value in facts.items() if value]


def _table_of_splits(
    counts: Mapping[str, Mapping[str, int]], splits: Mapping[str, Split], task: Task
) -> Table:
    """Lay out how many segments and videos each split has, and what the labels of open ones are."""
    rows = []
    for name in dict.fromkeys([*counts, *splits]):
        of_split, split = counts.get(name, {}), splits.get(name)
        segments = of_split["segments"] if split is None else len(split)
        row = [name, f"{segments:,}", of_split.get("videos", "unknown")]
        if split is None:
            rows.append(row + [""] * (len(task.outputs) + 1))
        else:
            rows.append([*row, *_labels(split, task), split.digest[:16]])
    what = "label, mean ± deviation"
    labels = [f"{what} ({name})" for name in task.outputs] if len(task.outputs) > 1 else [what]
    return Table(["split", "segments", "videos", *labels, "digest"], rows)


def _labels(split: Split, task: Task) -> list[str]:
    if split.labels.shape[1] <= max(task.columns) or not np.isfinite(split.labels).all():
        return ["none"] * len(task.outputs)
    columns = split.labels[:, task.columns].T
    return [f"{column.mean():.2f} ± {column.std():.2f}" for column in columns]


def environment_section(*environments: Mapping[str, Any]) -> Section:
    """Return versions, revision and machine, as `environment` has them; of several, all of each."""
    found: dict[str, dict[str, None]] = {}
    for one in environments:
        for name, value in one.items():
            for key, fact in (value if isinstance(value, dict) else {name: value}).items():
                found.setdefault(key, {})["-" if fact is None else str(fact)] = None
    rows = [(name, "; ".join(facts)) for name, facts in found.items()]
    return Section("Environment", [Table(["what", "value"], rows)])
