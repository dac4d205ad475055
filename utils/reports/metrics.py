"""The field's scores of sentiment predictions, over a whole split."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from data.labels import LABEL_LIMIT, sentiment_class


@dataclass(frozen=True)
class Scores:
    """Scores of n predictions; accuracies and F1 are fractions."""

    mae: float
    corr: float  # Pearson
    acc7: float  # rounded and clipped to [-3, 3]
    acc5: float  # rounded and clipped to [-2, 2]
    acc2: float  # negative/positive, zero labels left out: the released code's
    f1: float  # weighted, the same
    acc2_nonneg: float  # negative/non-negative, all labels
    f1_nonneg: float
    n: int

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of each score, accuracies as percentages."""
        return [
            (name, f"{100 * value:.2f} %" if percent else f"{value:.4f}")
            for (name, percent), value in zip(_NAMES, asdict(self).values(), strict=False)
        ]


_NAMES = [
    ("MAE", False),
    ("Corr", False),
    ("Acc-7", True),
    ("Acc-5", True),
    ("Acc-2 (neg/pos)", True),
    ("F1 (neg/pos)", True),
    ("Acc-2 (neg/non-neg)", True),
    ("F1 (neg/non-neg)", True),
]


def score(labels: np.ndarray, predictions: np.ndarray) -> Scores:
    """Score `predictions` `(n,)` against `labels` `(n,)`, both finite.

    Warns, and gives 0, where a score is not defined: Corr of constant predictions or labels,
    negative/positive without a label other than 0.
    """
    signed = labels != 0
    if not signed.any():
        warnings.warn("all labels are 0: Acc-2 and F1 (neg/pos) are given as 0", stacklevel=2)
    acc2, f1 = _binary(labels[signed] > 0, predictions[signed] > 0)
    acc2_nonneg, f1_nonneg = _binary(labels >= 0, predictions >= 0)
    return Scores(
        mae=float(mean_absolute_error(labels, predictions)),
        corr=_pearson(labels, predictions),
        acc7=_multiclass(labels, predictions, LABEL_LIMIT),
        acc5=_multiclass(labels, predictions, 2),
        acc2=acc2,
        f1=f1,
        acc2_nonneg=acc2_nonneg,
        f1_nonneg=f1_nonneg,
        n=len(labels),
    )


def _multiclass(labels: np.ndarray, predictions: np.ndarray, limit: int) -> float:
    classes = (sentiment_class(values, limit) for values in (labels, predictions))
    return float(accuracy_score(*classes))


def _binary(labels: np.ndarray, predictions: np.ndarray) -> tuple[float, float]:
    if not len(labels):
        return 0.0, 0.0
    # Each pair of classes once, weighted by how often it is: a million rows become four.
    counts = np.bincount(2 * labels.astype(np.int8) + predictions, minlength=4)
    true, predicted = np.repeat([False, True], 2), np.tile([False, True], 2)
    accuracy = accuracy_score(true, predicted, sample_weight=counts)
    f1 = f1_score(true, predicted, sample_weight=counts, average="weighted", zero_division=0)
    return float(accuracy), float(f1)


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    for name, values in (("labels", labels), ("predictions", predictions)):
        if np.ptp(values) == 0:
            warnings.warn(f"all {name} are {values[0]:g}: Corr is given as 0", stacklevel=3)
            return 0.0
    # As np.corrcoef, in half its memory.
    x, y = (values - values.mean(dtype=np.float64) for values in (labels, predictions))
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))
