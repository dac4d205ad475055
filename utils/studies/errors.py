"""The errors of a comparison's models, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.loading.split import Split
from utils.reports.evaluation_report import (
    WORST,
    Group,
    SegmentTable,
    class_groups,
    length_groups,
    values_text,
)
from utils.reports.html import Cell, Section, Table
from utils.studies.predicted import Predicted
from utils.tasks import Task

_MAX_PICTURES = 20  # of about 25 kB each


def error_sections(task: Task, split: Split, rows: Sequence[Predicted]) -> list[Section]:
    """Return error by class and length, the worst segments and confusion matrices, by model."""
    labels = split.labels[:, task.columns]
    mean_error = np.mean([row.error for row in rows], axis=0).mean(axis=1)
    worst = np.argsort(-mean_error, kind="stable")[:WORST].tolist()
    segments = SegmentTable(split, worst)
    classes, lengths = class_groups(labels, task), length_groups(segments.seconds)
    pictures = [picture for row in rows for picture in row.pictures][:_MAX_PICTURES]
    sections = [
        Section(f"MAE by {title}", [_group_table(title, groups, rows)])
        for title, groups in (("true class", classes), ("length of the segment", lengths))
        if groups
    ]
    if pictures:
        sections.append(Section("Confusion matrices of each model's first run", [*pictures]))
    title = f"The {len(worst)} segments that all models together predict worst"
    arrays = [("true", labels), *((row.name, row.mean) for row in rows)]
    columns = [(name, lambda row, of=array: values_text(task, of[row])) for name, array in arrays]
    return [*sections, Section(title, [segments.table(columns)])]


def _group_table(title: str, groups: Sequence[Group], rows: Sequence[Predicted]) -> Table:
    lines = []
    for name, index in groups:
        errors = [row.error[index] for row in rows]
        if errors[0].size:
            means = [float(error.mean()) for error in errors]
            largest = max(means) or 1.0
            cells = [Cell(f"{mean:.3f}", share=mean / largest) for mean in means]
            lines.append([name, f"{len(errors[0]):,}", *cells])
    return Table([title, "segments", *(row.name for row in rows)], lines)
