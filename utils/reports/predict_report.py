"""The report on predictions without labels: no scores, but values, classes and segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data.loading.split import Split
from models.checkpoint import Checkpoint
from system.console import fixed
from utils.reports.about import data_section, environment_section, settings_sections
from utils.reports.evaluation_report import SegmentTable, values_text
from utils.reports.html import Cell, Section, Table, write_report
from utils.run_config import RunConfig
from utils.running.environment import environment
from utils.tasks import Task

_STRONGEST = 20  # segments


def write_prediction_report(
    path: Path,
    config: RunConfig,
    checkpoint: Checkpoint,
    split: Split,
    predictions: np.ndarray,
    task: Task,
    device: torch.device,
    source: Path,
) -> None:
    """Write the report on predictions `(N, outputs)` of a split of `source`, dataset or pickle."""
    strength = np.abs(predictions).mean(axis=1)
    chosen = np.argsort(-strength, kind="stable")[:_STRONGEST].tolist()
    segments = SegmentTable(split, chosen)
    strongest = segments.table([("predicted", lambda row: values_text(task, predictions[row]))])
    name = split.folder.resolve().name
    sections = [
        Section("Scores", ["None: --predict looks at no labels. With labels, evaluate instead."]),
        Section("Predictions", [_distribution(predictions, task)]),
        Section(f"The {len(chosen)} strongest predictions", [strongest]),
        data_section(split.folder.resolve().parent, {name: split}, None, shown_as=source),
        *settings_sections(config, [checkpoint]),
        environment_section(environment(device)),
    ]
    write_report(path, f"{config.checkpoint} predicts {name} of {source}", sections)


def _distribution(predictions: np.ndarray, task: Task) -> Table:
    """Return a table of each output's range and number of segments in each class."""
    names = task.scale.class_names if task.scale else ()
    rows = []
    for name, values in zip(task.outputs, predictions.T, strict=True):
        statistics, cells = (values.min(), values.mean(), values.max()), []
        if task.scale is not None:
            counts = np.bincount(task.scale.classes(values), minlength=len(names))
            cells = [Cell(f"{count:,}", share=count / len(values)) for count in counts]
        rows.append([name, *(fixed(float(value), 2) for value in statistics), *cells])
    return Table(["output", "lowest", "mean", "highest", *names], rows)
