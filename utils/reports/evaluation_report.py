"""The report on an evaluation: scores, their intervals, and where the model is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from data.layout import iterate_segments, number_in
from data.loading.split import Split
from system.console import fixed
from utils.reports.bootstrap import score_table
from utils.reports.evaluation import Evaluation
from utils.reports.html import Cell, Picture, Section, Table
from utils.tasks import Task

WORST = 20  # segments
_LENGTHS = (2, 4, 8, 16, 32)  # seconds: the borders between groups of segments
# A name, and an index into an array `(N, outputs)`: a mask of rows `(N,)`, and maybe a column.
Group = tuple[str, tuple[Any, ...]]


def evaluation_sections(
    evaluation: Evaluation,
    task: Task,
    split: Split,
    certainty: dict[str, Any],
    pictures: Sequence[Picture],
) -> list[Section]:
    """Return the sections on an evaluation of `split`.

    `certainty` is from `Bootstrap.find`, `pictures` from `write_evaluation`. Raises InputError
    when the split's segment table is damaged.
    """
    differences = evaluation.predictions - evaluation.labels
    errors = np.abs(differences).mean(axis=1)
    worst = np.argsort(-errors, kind="stable")[:WORST].tolist()
    segments = SegmentTable(split, worst)
    columns = [
        ("true", lambda row: values_text(task, evaluation.labels[row])),
        ("predicted", lambda row: values_text(task, evaluation.predictions[row])),
        ("error", lambda row: f"{errors[row]:.2f}"),
    ]
    classes = class_groups(evaluation.labels, task)
    lengths = length_groups(segments.seconds)
    no_classes, no_times = "The task has no classes.", "The times of these segments are not known."
    by_class = _group_table("true class", classes, differences) if classes else no_classes
    by_length = _group_table("length", lengths, differences) if lengths else no_times
    return [
        Section(f"Scores of {split.folder.name}", _scores(evaluation, task, certainty)),
        Section("Predicted against true", list(pictures)),
        Section("Error by class", [by_class]),
        Section("Error by length of the segment", [by_length]),
        Section(f"The {len(worst)} worst segments", [segments.table(columns)]),
    ]


def _scores(evaluation: Evaluation, task: Task, certainty: dict[str, Any]) -> list[str | Table]:
    table = Table(*score_table(task, evaluation.scores, certainty))
    if not certainty:
        return [table, "No intervals: they need segments of several videos."]
    facts = certainty["bootstrap"]
    drawn = "videos" if "videos" in facts else "segments"
    text = (
        f"Intervals hold 95 % of {facts['resamples']:,} resamples of the {facts[drawn]:,} "
        f"{drawn}, drawn by the seed {facts['seed']}."
    )
    if drawn == "segments":
        text += " They may be too narrow, as the videos of these segments are not known."
    other = [f"The other is {certainty['against']['file']}."] if "against" in certainty else []
    return [table, text, *other]


def class_groups(labels: np.ndarray, task: Task) -> list[Group]:
    """Return a group for each class of labels `(N, outputs)`, output by output."""
    if task.scale is None:
        return []
    groups: list[Group] = []
    for column, output in enumerate(task.outputs):
        classes = task.scale.classes(labels[:, column])
        for number, name in enumerate(task.scale.class_names):
            title = f"{output} {name}" if len(task.outputs) > 1 else name
            groups.append((title, (classes == number, column)))
    return groups


def length_groups(seconds: np.ndarray) -> list[Group]:
    """Return a group for each range of lengths `(N,)`; an empty list when all are unknown."""
    is_known = seconds > 0
    if not is_known.any():
        return []
    group = np.where(is_known, np.digitize(seconds, _LENGTHS), -1)
    ends = [f"{low} to {high} s" for low, high in pairwise(_LENGTHS)]
    names = [f"under {_LENGTHS[0]} s", *ends, f"{_LENGTHS[-1]} s and more"]
    groups: list[Group] = [(name, (group == number,)) for number, name in enumerate(names)]
    return [*groups, ("not known", (~is_known,))]


def _group_table(title: str, groups: Sequence[Group], differences: np.ndarray) -> Table:
    """Return a table of the differences, predicted minus true, of each group that has segments."""
    filled = [(name, differences[index]) for name, index in groups if np.any(index[0])]
    bars = mae_bars([np.abs(values) for _, values in filled])
    rows = [
        [name, f"{len(values):,}", bar, fixed(float(values.mean()), 3, "+")]
        for (name, values), bar in zip(filled, bars, strict=True)
    ]
    return Table([title, "segments", "MAE", "mean of predicted minus true"], rows)


def mae_bars(errors: Sequence[np.ndarray]) -> list[Cell]:
    """Return a cell for each array of absolute errors: their mean, before a bar of that length."""
    maes = [float(each.mean()) for each in errors]
    largest = max(maes) or 1.0
    return [Cell(f"{mae:.3f}", share=mae / largest) for mae in maes]


def values_text(task: Task, values: np.ndarray) -> str:
    """Return the values `(outputs,)` of a segment as text, with names when there are several."""
    texts = [fixed(value, 2) for value in values.tolist()]
    if len(task.outputs) == 1:
        return texts[0]
    return ", ".join(map(" ".join, zip(task.outputs, texts, strict=True)))


class SegmentTable:
    """The lengths of all segments of a split, and the times and sentences of the `chosen` rows.

    For a split without segments.csv, lengths are NaN, and times and sentences empty. Raises
    InputError when the file is damaged.
    """

    def __init__(self, split: Split, chosen: Sequence[int]) -> None:
        self._ids, self.seconds = split.ids, np.full(len(split), np.nan)
        self._texts = dict.fromkeys(chosen, ("", ""))  # times and sentence
        for number, row in zip(range(len(split)), iterate_segments(split.folder), strict=False):
            start, end = number_in(row["start"]), number_in(row["end"])
            self.seconds[number] = end - start
            if number in self._texts:
                times = f"{start:.2f} to {end:.2f} s" if end > start else ""
                self._texts[number] = (times, row["sentence"])

    def table(self, columns: Sequence[tuple[str, Callable[[int], str]]]) -> Table:
        """Return a table of the chosen rows; `columns` add a name and a text for each row."""
        header = ["segment", "time", "sentence", *(name for name, _ in columns)]
        rows = [
            [self._ids[row], *texts, *(text_of(row) for _, text_of in columns)]
            for row, texts in self._texts.items()
        ]
        return Table(header, rows)
