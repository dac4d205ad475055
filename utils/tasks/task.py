"""What a model is asked to predict, and how its answers are scored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from data.labels import Scale
from data.layout import BATCH_FILES
from data.loading.split import Split
from system.errors import InputError

Scores = dict[str, float]  # by a measure's key
# What a task's loss can be, value by value.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": partial(mse_loss, reduction="none"),
    "l1": partial(l1_loss, reduction="none"),
}


@dataclass(frozen=True)
class Measure:
    """One of a task's scores."""

    key: str  # in files
    name: str  # as the field writes it
    is_percent: bool = False  # shown so; in files it is a fraction
    lower_is_better: bool = False

    def text(self, value: float) -> str:
        """Return a value as it is shown."""
        return f"{100 * value:.2f} %" if self.is_percent else f"{value:.4f}"


@dataclass(frozen=True)
class Sums:
    """Scores from sums over segments: of many resamples at once."""

    terms: Callable[[np.ndarray, np.ndarray], np.ndarray]  # of targets and predictions, (N, K)
    scores: Callable[[np.ndarray], dict[str, np.ndarray]]  # of sums (R, K), each measure's (R,)


@dataclass(frozen=True)
class Task:
    """One thing to predict: label columns in, scores out."""

    name: str
    outputs: Mapping[str, int]  # what a model's outputs are, and each one's label column
    loss: Callable[[Tensor, Tensor], Tensor]  # of predictions and targets, value by value
    score: Callable[[np.ndarray, np.ndarray], Scores]  # of targets and predictions (N, outputs)
    measures: tuple[Measure, ...]  # in the order of tables
    chosen_by: Measure  # its best value on the validation split chooses the epoch
    in_a_line: tuple[str, ...]  # keys of the measures that a line on screen has
    sums: Sums | None = None  # where each score is one of sums over segments
    scale: Scale | None = None  # of each output, with the classes of the confusion matrix
    # The names under which the released code prints its best scores, in its order.
    released_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> list[int]:
        """The label column of each output."""
        return list(self.outputs.values())

    def column_names(self, *what: str) -> list[str]:
        """Return what a file calls the columns of each output; of several, by their names."""
        prefixes = [f"{name}_" for name in self.outputs] if len(self.outputs) > 1 else [""]
        return [f"{prefix}{one}" for prefix in prefixes for one in what]

    def check_labels(self, split: Split) -> None:
        """Raise InputError when the split has no labels for this task, or some are no numbers.

        Warns of labels outside the scale.
        """
        path, found = split.folder / BATCH_FILES["label"], split.labels.shape[1]
        if found <= max(self.columns):
            raise InputError(
                f"{path} has no labels for the task {self.name}: it has {found} columns, and "
                f"{', '.join(self.outputs)} need {max(self.columns) + 1}; use a dataset that has "
                "them."
            )
        labels = split.labels[:, self.columns]
        wrong = np.argwhere(~np.isfinite(labels))
        if np.isnan(labels).all():
            raise InputError(
                f"{path}: {split.folder.name} is not labelled: there is nothing to score or to "
                "learn from; use a split that has labels."
            )
        if len(wrong):
            segment, output = wrong[0]
            label, name = split.labels[segment, self.columns[output]], list(self.outputs)[output]
            raise InputError(
                f"{path}: the label of segment {segment} is {label} ({name}), expected a number; "
                "prepare the dataset again with --force, which leaves such segments out."
            )
        if len(self.columns) > 1 and len(labels) > 1 and (labels == labels[0]).all():
            raise InputError(
                f"{path} has no labels for the task {self.name}: {', '.join(self.outputs)} are "
                "the same in all segments; use a dataset that has them."
            )
        if self.scale is None:
            return
        outside = labels[self.scale.outside(labels)]
        if len(outside):
            warnings.warn(
                f"{path}: {len(outside)} of {labels.size} labels outside [-{self.scale.limit}, "
                f"{self.scale.limit}], the first {outside[0]:g}; is it the --dataset that these "
                "labels belong to?",
                stacklevel=2,
            )

    def to_minimise(self, scores: Scores) -> float:
        """Return what chooses the epoch; lower is better."""
        value = scores[self.chosen_by.key]
        return value if self.chosen_by.lower_is_better else -value

    def rows(self, scores: Scores) -> list[tuple[str, str]]:
        """Return name and value of each measure, as a table shows them."""
        return [(measure.name, measure.text(scores[measure.key])) for measure in self.measures]

    def line(self, scores: Scores) -> str:
        """Return the most looked-at scores in a line."""
        by_key = {measure.key: measure for measure in self.measures}
        shown = [by_key[key] for key in self.in_a_line]
        return "  ".join(f"{one.name.split(' ')[0]} {one.text(scores[one.key])}" for one in shown)
