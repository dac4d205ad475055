"""The origin of results, for reports and metrics.json: data, settings, machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.labels import scores_of
from data.loading.split import INPUTS, Split
from data.manifest import read_manifest
from models.checkpoint import Checkpoint
from system.config import make_config, plain_values
from system.console import fixed
from utils.reports.html import Section, Table
from utils.run_config import TEXT_ENCODER_SETTINGS, TRAINING_SETTINGS, RunConfig
from utils.running.environment import command_line, environment
from utils.tasks import Task

_OF_TRAININGS = (
    *TRAINING_SETTINGS,
    *("finetune_bert", *TEXT_ENCODER_SETTINGS, "checkpointdir", "log_interval"),
)


def about_run(
    config: RunConfig,
    splits: Mapping[str, Split],
    task: Task,
    device: torch.device,
    evaluated: Sequence[Checkpoint] = (),
) -> list[Section]:
    """Return the sections on a run's data, `evaluated` checkpoints, settings and environment."""
    return [
        data_section(config.data_folder, splits, task),
        *settings_sections(config, evaluated),
        environment_section(environment(device)),
    ]


def settings_sections(config: RunConfig, evaluated: Sequence[Checkpoint]) -> list[Section]:
    """Return a section on each evaluated checkpoint, and one on the command and its settings.

    Where checkpoints are evaluated, the settings of a training are theirs, not the command's.
    """
    values = plain_values(config)
    settings = values.pop("set")
    for name in _OF_TRAININGS if evaluated else ():
        del values[name]
    rows = [("command", command_line()), *values.items(), *settings.items()]
    configuration = Section("Configuration", [Table(["setting", "value"], rows)])
    return [*map(_checkpoint_section, evaluated), configuration]


def _checkpoint_section(checkpoint: Checkpoint) -> Section:
    """Return the section on how a checkpoint was trained, as far as its file says."""
    details = checkpoint.details
    run: Any = details.get("run")
    values: dict[str, Any] = {}
    with suppress(Exception):  # another program's file may have anything under this name
        outcome = make_config(RunConfig, run, str(checkpoint.path)).outcome
        values = {name: outcome[name] for name in outcome if name in run}
    values = values or {"settings": "not in the file"}
    values.pop("set", None)  # the model's own settings say all of it
    settings = {**values, **checkpoint.config}.items()
    rows = [
        ("file", checkpoint.path),
        ("epoch", details.get("epoch", "not in the file")),
        *settings,
    ]
    return Section("Checkpoint", [Table(["trained with", "value"], rows)])


def data_section(
    folder: Path, splits: Mapping[str, Split], task: Task | None, shown_as: Path | None = None
) -> Section:
    """Return the section on the prepared dataset in `folder` and its opened `splits`.

    Without a task, labels are not looked at. `shown_as` is the source of a temporary folder's data.
    Raises InputError when the manifest is damaged.
    """
    manifest = read_manifest(folder)
    facts = [("folder", shown_as or folder), ("labels as of", scores_of(manifest))]
    shapes = zip(INPUTS, next(iter(splits.values())).shapes, strict=True)
    parts = [
        Table(["what", "value"], facts + _manifest_facts(manifest)),
        _split_table(manifest["splits"] if manifest else {}, splits, task),
        Table(["modality", "rows a segment", "width"], [(name, *shape) for name, shape in shapes]),
    ]
    return Section("Data", parts)


def describe_data(folder: Path, splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return a dataset's title, alignment, label scale, and the digest of each of `splits`.

    `folder` has the splits; title and alignment are None when it has no manifest. Word pieces that
    are read for text have digests of their own.
    """
    manifest = read_manifest(folder)
    made_from = manifest["made_from"] if manifest else {}
    pieces = {name: split.pieces_digest for name, split in splits.items() if split.takes_pieces}
    data = {
        "dataset": made_from.get("dataset"),
        "alignment": made_from.get("alignment"),
        "scores": scores_of(manifest),
        "digests": {name: split.digest for name, split in splits.items()},
    }
    return {**data, "pieces": pieces} if pieces else data


def _manifest_facts(manifest: dict[str, Any] | None) -> list[tuple[str, Any]]:
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


def _split_table(
    counts: Mapping[str, Mapping[str, int]], splits: Mapping[str, Split], task: Task | None
) -> Table:
    """Return a table of segments and videos; of opened splits, with digest and a task's labels."""
    rows, outputs = [], {} if task is None else task.outputs
    for name in dict.fromkeys([*counts, *splits]):
        split_counts, split = counts.get(name, {}), splits.get(name)
        segments = split_counts["segments"] if split is None else len(split)
        row = [name, f"{segments:,}", split_counts.get("videos", "unknown")]
        if split is None:
            rows.append(row + [""] * (len(outputs) + 1))
        else:
            labels = [] if task is None else _label_texts(split, task)
            rows.append([*row, *labels, split.digest[:16]])
    title = "label, mean ± sample deviation"
    titles = [f"{title} ({name})" if len(outputs) > 1 else title for name in outputs]
    return Table(["split", "segments", "videos", *titles, "digest"], rows)


def _label_texts(split: Split, task: Task) -> list[str]:
    if split.labels.shape[1] <= max(task.columns) or not np.isfinite(split.labels).all():
        return ["none"] * len(task.outputs)
    columns = split.labels[:, task.columns].T
    means = [fixed(float(column.mean()), 2) for column in columns]
    if len(split) == 1:  # it has no sample deviation
        return means
    return [
        f"{mean} ± {column.std(ddof=1):.2f}" for mean, column in zip(means, columns, strict=True)
    ]


def environment_section(*environments: Mapping[str, Any]) -> Section:
    """Return the section with the facts of `environment`; where several differ, all values."""
    values_by_key: dict[str, dict[str, None]] = {}  # a dict keeps the order and drops repetitions
    for facts in environments:
        for name, fact in facts.items():
            for key, value in (fact if isinstance(fact, dict) else {name: fact}).items():
                values_by_key.setdefault(key, {})["-" if value is None else str(value)] = None
    rows = [(key, "; ".join(values)) for key, values in values_by_key.items()]
    return Section("Environment", [Table(["what", "value"], rows)])
