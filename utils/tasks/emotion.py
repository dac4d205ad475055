"""Six emotions a segment, each by its intensity, and the field's scores of the predictions."""

from __future__ import annotations

import warnings

import numpy as np

from data.labels import EMOTION_SCALE, EMOTIONS
from utils.tasks.sums import Sums, accuracy_and_f1, pairs, ratio
from utils.tasks.task import LOSSES, Measure, Scores, Task


def score(labels: np.ndarray, predictions: np.ndarray) -> Scores:
    """Score `predictions` `(N, 6)` against `labels` of that shape, both finite.

    By emotion, and their means first: MAE, and of present (> 0) or not the weighted accuracy
    and the weighted F1, as fractions. Where all segments have an emotion, or none, its weighted
    accuracy is the share of them that is told right, with a warning.
    """
    for name, is_present in zip(EMOTIONS, (labels > 0).T, strict=True):
        if is_present.all() or not is_present.any():
            what = "every" if is_present.any() else "no"
            warnings.warn(
                f"{what} segment is labelled {name}: its weighted accuracy is the share of "
                "segments told right",
                stacklevel=2,
            )
    return _SUMS.score(labels, predictions)


def _terms(labels: np.ndarray, predictions: np.ndarray) -> list[np.ndarray]:
    """Return the error of each emotion of `(N, 6)`, and which of the four pairs it is."""
    columns = zip(labels.T, predictions.T, strict=True)
    return [term for x, y in columns for term in (np.abs(x - y), *pairs(x > 0, y > 0))]


def _scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    by_emotion = {}
    for name, of_one in zip(EMOTIONS, np.split(sums, len(EMOTIONS), axis=1), strict=True):
        counts = of_one[:, 1:]
        _, f1 = accuracy_and_f1(counts)
        mae = of_one[:, 0] / counts.sum(axis=1)
        by_emotion[name] = {"mae": mae, "wacc": _weighted_accuracy(counts), "f1": f1}
    keys = [measure.key for measure in _MEANS]
    means = {key: np.mean([of[key] for of in by_emotion.values()], axis=0) for key in keys}
    of_each = {f"{key}_{name}": by_emotion[name][key] for name in EMOTIONS for key in keys}
    return means | of_each


def _weighted_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return `(TP N/P + TN) / 2N` (Zadeh et al., ACL 2018), the mean of both classes' recalls.

    Where there is one class, it is its recall.
    """
    true_neg, false_pos, false_neg, true_pos = counts.T
    negatives, positives = true_neg + false_pos, false_neg + true_pos
    classes = (negatives > 0).astype(float) + (positives > 0)
    mean: np.ndarray = (ratio(true_neg, negatives) + ratio(true_pos, positives)) / classes
    return mean


_SUMS = Sums(_terms, _scores)
_MEANS = (
    Measure("mae", "MAE", lower_is_better=True),
    Measure("wacc", "WAcc", is_percent=True),
    Measure("f1", "F1", is_percent=True),
)

EMOTION = Task(
    name="emotion",
    outputs={name: column for column, name in enumerate(EMOTIONS, start=1)},
    loss=LOSSES["mse"],
    score=score,
    measures=(
        *_MEANS,
        *(
            Measure(f"{of.key}_{name}", f"{of.name} {name}", of.is_percent, of.lower_is_better)
            for name in EMOTIONS
            for of in _MEANS
        ),
    ),
    chosen_by=_MEANS[0],
    in_a_line=("mae", "wacc", "f1"),
    sums=_SUMS,
    scale=EMOTION_SCALE,
)
