"""Predictions without labels as a report: no scores, but what was predicted of what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data.loading.split import Split
from utils.reports.about import configuration_section, data_section, environment_section
from utils.reports.evaluation_report import SegmentTable, values_text
from utils.reports.html import Cell, Section, Table, write_report
from utils.run_config import RunConfig
from utils.running.environment import environment
from utils.tasks import Task

_STRONGEST = 20  # segments


def write_prediction_report(
    path: Path,
    config: RunConfig,
    split: Split,
    predictions: np.ndarray,
    task: Task,
    device: torch.device,
    predicted: Path,
) -> None:
    """Write what was predicted `(N, outputs)` of a split of the dataset or pickle `predicted`."""
    strength = np.abs(predictions).mean(axis=1)
    chosen = np.argsort(-strength, kind="stable")[:_STRONGEST].tolist()
    segments = SegmentTable(split, chosen)
    strongest = segments.table([("predicted", lambda row: values_text(task, predictions[row]))])
    name = split.folder.resolve().name
    sections = [
        Section("Scores", ["None: --predict looks at no labels. With labels, evaluate instead."]),
        Section("Predictions", [_distribution(predictions, task)]),
        Section(f"The {len(chosen)} strongest predictions", [strongest]),
        data_section(split.folder.resolve().parent, {name: split}, task, shown_as=predicted),
        configuration_section(config),
        environment_section(environment(device)),
    ]
    write_report(path, f"{config.checkpoint} predicts {name} of {predicted}", sections)


def _distribution(predictions: np.ndarray, task: Task) -> Table:
    """Lay out each output's range and how many segments fall into each class."""
    names = task.scale.class_names if task.scale else ()
    rows = []
    for name, values in zip(task.outputs, predictions.T, strict=True):
        cells = []
        if task.scale is not None:
            counts = np.bincount(task.scale.classes(values), minlength=len(names))
            cells = [Cell(f"{count:,}", share=count / len(values)) for count in counts]
        rows.append([name, *(f"{of(values):.2f}" for of in (np.min, np.mean, np.max)), *cells])
    return Table(["output", "lowest", "mean", "highest", *names], rows)
