"""An evaluation as a report: how good, how sure, where wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from data.layout import iterate_segments, number_in
from data.loading.split import Split
from utils.reports.bootstrap import score_table
from utils.reports.evaluation import Evaluation
from utils.reports.html import Cell, Picture, Section, Table
from utils.tasks import Task

WORST = 20  # segments
_LENGTHS = (2, 4, 8, 16, 32)  # seconds, where one group of segments ends and the next begins
# A name, and what of an array `(N, outputs)` is of the group: rows `(N,)`, perhaps one column.
Group = tuple[str, tuple[Any, ...]]


def evaluation_sections(
    evaluation: Evaluation,
    task: Task,
    split: Split,
    certainty: dict[str, Any],
    pictures: Sequence[Picture],
) -> list[Section]:
    """Return the sections on an evaluation of `split`.

    `certainty` is what `Bootstrap.find` returned, `pictures` what `write_evaluation` did. Raises
    InputError when the split's segment table is damaged.
    """
    wrong = evaluation.predictions - evaluation.labels
    errors = np.abs(wrong).mean(axis=1)
    worst = np.argsort(-errors, kind="stable")[:WORST].tolist()
    segments = SegmentTable(split, worst)
    columns = [
        ("true", lambda row: values_text(task, evaluation.labels[row])),
        ("predicted", lambda row: values_text(task, evaluation.predictions[row])),
        ("error", lambda row: f"{errors[row]:.2f}"),
    ]
    classes = class_groups(evaluation.labels, task)
    lengths = length_groups(segments.seconds)
    by_class = _by_group("true class", classes, wrong) if classes else "The task has no classes."
    unknown = "The times of these segments are not known."
    by_length = _by_group("length", lengths, wrong) if lengths else unknown
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
    about = certainty["bootstrap"]
    text = (
        f"Intervals hold 95 % of {about['resamples']:,} resamples of the {about['videos']:,} "
        f"videos, drawn by the seed {about['seed']}."
    )
    other = [f"The other is {certainty['against']['file']}."] if "against" in certainty else []
    return [table, text, *other]


def class_groups(labels: np.ndarray, task: Task) -> list[Group]:
    """Return each class of labels `(N, outputs)`."""
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
    """Return each range of lengths `(N,)`; none of unknown ones."""
    known = seconds > 0
    if not known.any():
        return []
    group = np.where(known, np.digitize(seconds, _LENGTHS), -1)
    ends = [f"{low} to {high} s" for low, high in pairwise(_LENGTHS)]
    names = [f"under {_LENGTHS[0]} s", *ends, f"{_LENGTHS[-1]} s and more"]
    return [*((name, (group == k,)) for k, name in enumerate(names)), ("not known", (~known,))]


def _by_group(title: str, groups: Sequence[Group], wrong: np.ndarray) -> Table:
    """Lay out the errors, predicted minus true, of each group that has segments."""
    filled = [(name, wrong[place]) for name, place in groups if np.any(place[0])]
    maes = [float(np.abs(own).mean()) for _, own in filled]
    largest = max(maes) or 1.0
    rows = [
        [name, f"{len(own):,}", Cell(f"{mae:.3f}", share=mae / largest), f"{own.mean():+.3f}"]
        for (name, own), mae in zip(filled, maes, strict=True)
    ]
    return Table([title, "segments", "MAE", "mean of predicted minus true"], rows)


def values_text(task: Task, values: np.ndarray) -> str:
    """Return the values `(outputs,)` of a segment as a table shows them; of several, with names."""
    if len(task.outputs) == 1:
        return f"{values[0]:.2f}"
    pairs = zip(task.outputs, values, strict=True)
    return ", ".join(f"{name} {value:.2f}" for name, value in pairs)


class SegmentTable:
    """The lengths of all segments of a split, and the times and sentences of the `chosen` rows.

    A split without a table has none of them: lengths are NaN, times and sentences empty. Raises
    InputError when the table is damaged.
    """

    def __init__(self, split: Split, chosen: Sequence[int]) -> None:
        self._ids, self.seconds = split.ids, np.full(len(split), np.nan)
        self._spoken = dict.fromkeys(chosen, ("", ""))
        for number, row in zip(range(len(split)), iterate_segments(split.folder), strict=False):
            start, end = number_in(row["start"]), number_in(row["end"])
            self.seconds[number] = end - start
            if number in self._spoken:
                times = f"{start:.2f} to {end:.2f} s" if end > start else ""
                self._spoken[number] = (times, row["sentence"])

    def table(self, columns: Sequence[tuple[str, Callable[[int], str]]]) -> Table:
        """Lay out the chosen rows, and in further columns what is to be said of each."""
        header = ["segment", "time", "sentence", *(name for name, _ in columns)]
        rows = [
            [self._ids[row], *spoken, *(text_of(row) for _, text_of in columns)]
            for row, spoken in self._spoken.items()
        ]
        return Table(header, rows)
