"""The emotion task: the intensities of six emotions a segment, and the usual scores for them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from statistics import fmean

import numpy as np

from data.labels import EMOTION_SCALE, EMOTIONS
from utils.tasks.metrics import accuracy_and_f1, mean_absolute_error
from utils.tasks.sums import EMOTION_SUMS
from utils.tasks.task import LOSSES, Measure, Scores, Task


def score(labels: np.ndarray, predictions: np.ndarray) -> Scores:
    """Score `predictions` `(N, 6)` against `labels` of that shape, both finite.

    Returns MAE, and the weighted accuracy and weighted F1 of present (> 0) or not, as fractions:
    first their means over the emotions, then each emotion's. Where all segments have an emotion,
    or none has it, its weighted accuracy is plain accuracy, with a warning.
    """
    by_emotion = {
        name: _score_one(name, labels[:, column], predictions[:, column])
        for column, name in enumerate(EMOTIONS)
    }
    keys = [measure.key for measure in _MEANS]
    means = {key: fmean(scores[key] for scores in by_emotion.values()) for key in keys}
    scores = {f"{key}_{name}": by_emotion[name][key] for name in EMOTIONS for key in keys}
    return means | scores


def _score_one(name: str, labels: np.ndarray, predictions: np.ndarray) -> Scores:
    _, f1 = accuracy_and_f1(labels > 0, predictions > 0)
    return {
        "mae": mean_absolute_error(labels, predictions),
        "wacc": weighted_accuracy(name, labels > 0, predictions > 0),
        "f1": f1,
    }


def weighted_accuracy(name: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return `(TP N/P + TN) / 2N` (Zadeh et al., ACL 2018) of truth values `(n,)`.

    It is the mean of both classes' recalls. If one class is absent, it is the recall of the other,
    with a warning that names the emotion.
    """
    recalls = [
        float(np.mean(predictions[labels == is_present] == is_present))
        for is_present in (False, True)
        if (labels == is_present).any()
    ]
    if len(recalls) == 1:
        which = "every" if labels.any() else "no"
        warnings.warn(
            f"{which} segment is labelled {name}: its weighted accuracy is the plain accuracy",
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
            replace(mean, key=f"{mean.key}_{name}", name=f"{mean.name} {name}")
            for name in EMOTIONS
            for mean in _MEANS
        ),
    ),
    chosen_by=_MEANS[0],
    in_a_line=("mae", "wacc", "f1"),
    sums=EMOTION_SUMS,
    scale=EMOTION_SCALE,
)
