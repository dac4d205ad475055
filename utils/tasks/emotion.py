"""Six emotions a segment, each by its intensity, and the field's scores of the predictions."""

from __future__ import annotations

import warnings
from statistics import fmean

import numpy as np

from data.labels import EMOTION_SCALE, EMOTIONS
from utils.tasks.metrics import accuracy_and_f1, mean_absolute_error
from utils.tasks.sums import EMOTION_SUMS
from utils.tasks.task import LOSSES, Measure, Scores, Task


def score(labels: np.ndarray, predictions: np.ndarray) -> Scores:
    """Score `predictions` `(N, 6)` against `labels` of that shape, both finite.

    By emotion, and their means first: MAE, and of present (> 0) or not the weighted accuracy
    and the weighted F1, as fractions. Where all segments have an emotion, or none, its weighted
    accuracy is the share of them that is told right, with a warning.
    """
    by_emotion = {
        name: _score_one(name, labels[:, column], predictions[:, column])
        for column, name in enumerate(EMOTIONS)
    }
    keys = [measure.key for measure in _MEANS]
    means = {key: fmean(scores[key] for scores in by_emotion.values()) for key in keys}
    of_each = {f"{key}_{name}": by_emotion[name][key] for name in EMOTIONS for key in keys}
    return means | of_each


def _score_one(name: str, labels: np.ndarray, predictions: np.ndarray) -> Scores:
    _, f1 = accuracy_and_f1(labels > 0, predictions > 0)
    return {
        "mae": mean_absolute_error(labels, predictions),
        "wacc": weighted_accuracy(name, labels > 0, predictions > 0),
        "f1": f1,
    }


def weighted_accuracy(name: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return `(TP N/P + TN) / 2N` (Zadeh et al., ACL 2018) of truth values `(n,)`.

    It is the mean of both classes' recalls. Without one of them, it is the other's, with a
    warning that has the emotion's name.
    """
    recalls = [
        float(np.mean(predictions[labels == side] == side))
        for side in (False, True)
        if (labels == side).any()
    ]
    if len(recalls) == 1:
        what = "every" if labels.any() else "no"
        warnings.warn(
            f"{what} segment is labelled {name}: its weighted accuracy is the share of segments "
            "told right",
            stacklevel=4,
        )
    return fmean(recalls)


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
    sums=EMOTION_SUMS,
    scale=EMOTION_SCALE,
)
