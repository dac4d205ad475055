"""Where the models of a comparison are wrong, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from data.loading.split import Split
from system.errors import InputError
from utils.reports.bootstrap import read_predictions
from utils.reports.evaluation_report import (
    WORST,
    Group,
    SegmentTable,
    class_groups,
    length_groups,
    values_text,
)
from utils.reports.html import Cell, Picture, Section
from utils.reports.html import Table as Layout
from utils.reports.results import result_folder
from utils.studies.runs import Run
from utils.studies.table import Row, Table
from utils.tasks import Task
from utils.training.run_folder import BEST

_MOST_PICTURES = 20  # of some 25 kB each


@dataclass(frozen=True)
class Predicted:
    """What a row's runs predict of the test split."""

    name: str
    mean: np.ndarray  # (N, outputs), over the runs
    error: np.ndarray  # (N, outputs), its absolute values' mean over the runs
    pictures: list[Picture]


def error_sections(table: Table) -> list[Section]:
    """Return error by class and length, the worst segments and confusion matrices, by model.

    There are none where runs are of different test splits, or these have changed since; a row
    whose predictions are not in its folder any more is left out.
    """
    runs = [run for row in table.rows for run in row.runs]
    split = _common_split(runs)
    if split is None:
        return []
    labels = split.labels[:, table.task.columns]
    found = [_predicted(row, split, labels, table.task) for row in table.rows]
    rows = [row for row in found if row is not None]
    if not rows:
        return []
    of_all = np.mean([row.error for row in rows], axis=0).mean(axis=1)
    worst = np.argsort(-of_all, kind="stable")[:WORST].tolist()
    segments = SegmentTable(split, worst)
    classes, lengths = class_groups(labels, table.task), length_groups(segments.seconds)
    pictures = [picture for row in rows for picture in row.pictures][:_MOST_PICTURES]
    sections = [
        Section(f"MAE by {what}", [_by_group(what, groups, rows)])
        for what, groups in (("true class", classes), ("length of the segment", lengths))
        if groups
    ]
    if pictures:
        sections.append(Section("Confusion matrices of each model's first run", [*pictures]))
    title = f"The {len(worst)} segments that all models together predict worst"
    values = [("true", labels), *((row.name, row.mean) for row in rows)]
    columns = [
        (name, lambda number, of=of: values_text(table.task, of[number])) for name, of in values
    ]
    return [*sections, Section(title, [segments.table(columns)])]


def _common_split(runs: Sequence[Run]) -> Split | None:
    folders = {run.config.data_folder / "test" for run in runs}
    digests = {run.digests["test"] for run in runs}
    if len(digests) > 1:
        return None
    for folder in folders:
        with suppress(InputError, OSError):  # it may have gone since
            split = Split(folder)
            if split.digest in digests:
                return split
    return None


def _predicted(row: Row, split: Split, labels: np.ndarray, task: Task) -> Predicted | None:
    predictions, pictures = [], []
    for run in row.runs:
        with suppress(InputError, OSError):  # results may have been removed
            folder = result_folder(run.config.resultdir, run.folder / BEST, split.digest) / "test"
            predictions.append(read_predictions(folder / "predictions.csv", split, task))
            picture = folder / "confusion_matrix.png"
            if picture.is_file():
                pictures.append(Picture(picture, row.name))
    if not predictions:
        return None
    errors = [np.abs(one - labels) for one in predictions]
    return Predicted(row.name, np.mean(predictions, axis=0), np.mean(errors, axis=0), pictures[:1])


def _by_group(what: str, groups: Sequence[Group], rows: Sequence[Predicted]) -> Layout:
    lines = []
    for name, place in groups:
        errors = [row.error[place] for row in rows]
        if errors[0].size:
            means = [float(error.mean()) for error in errors]
            largest = max(means) or 1.0
            cells = [Cell(f"{mean:.3f}", share=mean / largest) for mean in means]
            lines.append([name, f"{len(errors[0]):,}", *cells])
    return Layout([what, "segments", *(row.name for row in rows)], lines)
