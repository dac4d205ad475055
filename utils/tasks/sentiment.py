"""Sentiment: one score a segment, and the field's scores of its predictions.

They are those of CMU-MOSEI and CMU-MOSI, and those of CH-SIMS.
"""

from __future__ import annotations

import warnings

import numpy as np

from data.labels import SCALES
from utils.tasks.sums import SENTIMENT_SUMS, SIMS_SUMS
from utils.tasks.task import LOSSES, Measure, Scores, Task


def score(labels: np.ndarray, predictions: np.ndarray) -> Scores:
    """Score `predictions` `(N, 1)` or `(N,)` against `labels` of that shape, both finite.

    Accuracies and F1 are fractions. Warns, and gives 0, where a score is not defined: Corr of
    constant predictions or labels, negative/positive without a label other than 0.
    """
    if not labels.any():
        warnings.warn("all labels are 0: Acc-2 and F1 (neg/pos) are given as 0", stacklevel=2)
    _warn_of_constants(labels, predictions)
    return SENTIMENT_SUMS.score(labels, predictions)


def score_sims(labels: np.ndarray, predictions: np.ndarray) -> Scores:
    """Score as CH-SIMS does, both clipped to [-1, 1] first; arguments and warnings as `score`'s.

    A value on the border of two classes belongs to the lower one. Source: MMSA's metrics.
    """
    _warn_of_constants(np.clip(labels, -1, 1), np.clip(predictions, -1, 1))
    return SIMS_SUMS.score(labels, predictions)


def _warn_of_constants(labels: np.ndarray, predictions: np.ndarray) -> None:
    for name, values in (("labels", labels), ("predictions", predictions)):
        if np.ptp(values) == 0:
            warnings.warn(f"all {name} are {values.item(0):g}: Corr is given as 0", stacklevel=3)
            return


_CORR = Measure("corr", "Corr")  # Pearson
_MAE = Measure("mae", "MAE", lower_is_better=True)

SENTIMENT = Task(
    name="sentiment",
    outputs={"sentiment": 0},
    loss=LOSSES["mse"],
    score=score,
    measures=(
        _MAE,
        _CORR,
        Measure("acc7", "Acc-7", is_percent=True),  # rounded and clipped to [-3, 3]
        Measure("acc5", "Acc-5", is_percent=True),  # rounded and clipped to [-2, 2]
        # Zero labels left out, as the released code does.
        Measure("acc2", "Acc-2 (neg/pos)", is_percent=True),
        Measure("f1", "F1 (neg/pos)", is_percent=True),  # weighted by class
        Measure("acc2_nonneg", "Acc-2 (neg/non-neg)", is_percent=True),
        Measure("f1_nonneg", "F1 (neg/non-neg)", is_percent=True),
    ),
    chosen_by=_MAE,
    in_a_line=("mae", "corr", "acc7", "acc2", "f1"),
    sums=SENTIMENT_SUMS,
    scale=SCALES["mosei"],
    released_names={"Acc7": "acc7", "Acc2": "acc2", "F1": "f1", "Corr": "corr", "MAE": "mae"},
)

SIMS_SENTIMENT = Task(
    name="sentiment",
    outputs={"sentiment": 0},
    loss=LOSSES["mse"],
    score=score_sims,
    measures=(
        _MAE,
        _CORR,
        Measure("acc2", "Acc-2 (neg/pos)", is_percent=True),  # <= 0 against > 0
        Measure("f1", "F1 (neg/pos)", is_percent=True),  # weighted by class
        Measure("acc3", "Acc-3", is_percent=True),
        Measure("acc5", "Acc-5", is_percent=True),
    ),
    chosen_by=_MAE,
    in_a_line=("mae", "corr", "acc2", "f1", "acc5"),
    sums=SIMS_SUMS,
    scale=SCALES["sims"],
)
