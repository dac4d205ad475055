"""Six emotions a segment, each by its intensity, and the field's scores of the predictions."""

from __future__ import annotations

import warnings

import numpy as np

from data.labels import EMOTION_SCALE, EMOTIONS
from utils.tasks.sums import EMOTION_SUMS
from utils.tasks.task import LOSSES, Measure, Scores, Task


def score(labels: np.ndarray, predictions: np.ndarray) -> Scores:
    """Score `predictions` `(N, 6)` against `labels` of that shape, both finite.

    By emotion, and their means first: MAE, and of present (> 0) or not the weighted accuracy
    (Zadeh et al., ACL 2018), which is the mean of both classes' recalls, and the weighted F1, as
    fractions. Where all segments have an emotion, or none, its weighted accuracy is the share of
    them that is told right, with a warning.
    """
    for name, is_present in zip(EMOTIONS, (labels > 0).T, strict=True):
        if is_present.all() or not is_present.any():
            what = "every" if is_present.any() else "no"
            warnings.warn(
                f"{what} segment is labelled {name}: its weighted accuracy is the share of "
                "segments told right",
                stacklevel=2,
            )
    return EMOTION_SUMS.score(labels, predictions)


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
