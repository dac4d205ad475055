"""Tasks: what a model predicts, and how its predictions are scored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from data.labels import Scale
from data.layout import BATCH_FILES
from data.loading.split import Split
from system.console import fixed
from system.errors import InputError

_ROUNDING = 1 + 1e-6  # of a label at a limit, in float32
Scores = dict[str, float]  # by the keys of measures
# The losses that a task can have; each returns one value for each prediction.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": partial(mse_loss, reduction="none"),
    "l1": partial(l1_loss, reduction="none"),
}


@dataclass(frozen=True)
class Measure:
    """One of a task's scores."""

    key: str  # in files
    name: str  # as publications write it
    is_percent: bool = False  # in text; in files it is a fraction
    lower_is_better: bool = False

    def text(self, value: float) -> str:
        """Return a value as text for people."""
        return f"{fixed(100 * value, 2)} %" if self.is_percent else fixed(value, 4)


@dataclass(frozen=True)
class Sums:
    """Scores computed from sums over segments, for many resamples at once."""

    terms: Callable[[np.ndarray, np.ndarray], np.ndarray]  # targets and predictions -> (N, K)
    scores: Callable[[np.ndarray], dict[str, np.ndarray]]  # sums (R, K) -> (R,) by measure


@dataclass(frozen=True)
class Task:
    """What a model predicts, from which label columns, and with which loss and scores."""

    name: str
    outputs: Mapping[str, int]  # the label column of each of the model's outputs, by name
    loss: Callable[[Tensor, Tensor], Tensor]  # predictions and targets -> losses, same shape
    score: Callable[[np.ndarray, np.ndarray], Scores]  # of targets and predictions (N, outputs)
    measures: tuple[Measure, ...]  # in the order of tables
    chosen_by: Measure  # its best value on the validation split chooses the epoch
    in_a_line: tuple[str, ...]  # keys of the measures printed after each epoch
    sums: Sums | None = None  # if all scores can be computed from sums over segments
    scale: Scale | None = None  # of each output, with the classes of the confusion matrix
    # The names under which the released code prints its best scores, in its order.
    released_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> list[int]:
        """The label column of each output."""
        return list(self.outputs.values())

    @property
    def loss_name(self) -> str:
        """The name of the loss in `LOSSES`."""
        return next(name for name, loss in LOSSES.items() if loss is self.loss)

    def column_names(self, *columns: str) -> list[str]:
        """Return a file's names for these columns of each output; of several, with output names."""
        prefixes = [f"{name}_" for name in self.outputs] if len(self.outputs) > 1 else [""]
        return [f"{prefix}{column}" for prefix in prefixes for column in columns]

    def check_labels(self, split: Split) -> None:
        """Raise InputError when the split has no labels for this task, or a label is not a number.

        Warns of labels outside the scale.
        """
        path, n_columns = split.folder / BATCH_FILES["label"], split.labels.shape[1]
        if n_columns <= max(self.columns):
            raise InputError(
                f"{path} has no labels for the task {self.name}: it has {n_columns} columns, but "
                f"{', '.join(self.outputs)} need {max(self.columns) + 1}; use a dataset that has "
                "them."
            )
        labels = split.labels[:, self.columns]
        not_finite = np.argwhere(~np.isfinite(labels))
        if np.isnan(labels).all():
            raise InputError(
                f"{path}: {split.folder.name} is not labelled: there is nothing to score or to "
                "learn from; use a split that has labels."
            )
        if len(not_finite):
            segment, output = not_finite[0]
            label, name = split.labels[segment, self.columns[output]], list(self.outputs)[output]
            raise InputError(
                f"{path}: the label of segment {segment} is {label} ({name}), expected a number; "
                "leave such segments out, as dataset_prep.py --force does from its sources."
            )
        if len(self.columns) > 1 and len(labels) > 1 and (labels == labels[0]).all():
            raise InputError(
                f"{path} has no labels for the task {self.name}: {', '.join(self.outputs)} are "
                "the same in all segments; use a dataset that has them."
            )
        if self.scale is not None:
            self._warn_of_range(path, labels, self.scale)

    def _warn_of_range(self, path: Path, labels: np.ndarray, scale: Scale) -> None:
        """Warn of labels `(N, outputs)` that are outside the scale by more than rounding."""
        outside = np.argwhere(scale.outside(labels / _ROUNDING))
        if len(outside):
            segment, output = outside[0]
            warnings.warn(
                f"{path}: {len(outside)} of {labels.size} labels are outside [-{scale.limit}, "
                f"{scale.limit}], the first {labels[segment, output]:g} "
                f"({list(self.outputs)[output]} of segment {segment}); scale them, or "
                "prepare the data with the right --dataset",
                stacklevel=3,
            )

    def to_minimise(self, scores: Scores) -> float:
        """Return the score that chooses the best epoch, negated if higher is better."""
        value = scores[self.chosen_by.key]
        return value if self.chosen_by.lower_is_better else -value

    def rows(self, scores: Scores) -> list[tuple[str, str]]:
        """Return name and value of each measure, as text for a table."""
        return [(measure.name, measure.text(scores[measure.key])) for measure in self.measures]

    def line(self, scores: Scores) -> str:
        """Return the most important scores in one line."""
        measures = {measure.key: measure for measure in self.measures}
        names = {key: measures[key].name.split(" ")[0] for key in self.in_a_line}
        return "  ".join(f"{name} {measures[key].text(scores[key])}" for key, name in names.items())
