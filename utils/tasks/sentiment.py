"""The sentiment task: one value a segment, and the usual scores for its predictions.

`score` has those of CMU-MOSEI and CMU-MOSI, `score_sims` those of CH-SIMS.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from data.labels import SCALES
from utils.tasks.metrics import accuracy, accuracy_and_f1, mean_absolute_error
from utils.tasks.sums import CLASSES, SENTIMENT_SUMS, SIMS_CLASSES, SIMS_SUMS, Classes
from utils.tasks.task import LOSSES, Measure, Scores, Task


def score(labels: np.ndarray, predictions: np.ndarray) -> Scores:
    """Score `predictions` `(N, 1)` or `(N,)` against `labels` of that shape, both finite.

    Accuracies and F1 are fractions. A score that is not defined is 0, with a warning: Corr of
    constant predictions or labels, and negative/positive scores if all labels are 0.
    """
    labels, predictions = labels.reshape(-1), predictions.reshape(-1)
    not_zero = labels != 0
    if not not_zero.any():
        warnings.warn("all labels are 0: Acc-2 and F1 (neg/pos) are given as 0", stacklevel=2)
    acc2, f1 = accuracy_and_f1(labels[not_zero] > 0, predictions[not_zero] > 0)
    acc2_nonneg, f1_nonneg = accuracy_and_f1(labels >= 0, predictions >= 0)
    return {
        "mae": mean_absolute_error(labels, predictions),
        "corr": _pearson(labels, predictions),
        **_accuracies(CLASSES, labels, predictions),
        "acc2": acc2,
        "f1": f1,
        "acc2_nonneg": acc2_nonneg,
        "f1_nonneg": f1_nonneg,
    }


def score_sims(labels: np.ndarray, predictions: np.ndarray) -> Scores:
    """Score as CH-SIMS does; arguments and warnings are those of `score`.

    Labels and predictions are first clipped to [-1, 1]. A value on the border of two classes
    belongs to the lower one. Source: MMSA's metrics.
    """
    labels, predictions = (np.clip(x.reshape(-1), -1, 1) for x in (labels, predictions))
    acc2, f1 = accuracy_and_f1(labels > 0, predictions > 0)
    return {
        "mae": mean_absolute_error(labels, predictions),
        "corr": _pearson(labels, predictions),
        "acc2": acc2,
        "f1": f1,
        **_accuracies(SIMS_CLASSES, labels, predictions),
    }


def _accuracies(classes: Classes, labels: np.ndarray, predictions: np.ndarray) -> Scores:
    return {key: accuracy(to(labels), to(predictions)) for key, to in classes.items()}


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    for name, values in (("labels", labels), ("predictions", predictions)):
        if np.ptp(values) == 0:
            warnings.warn(f"all {name} are {values[0]:g}: Corr is given as 0", stacklevel=3)
            return 0.0
    return float(np.corrcoef(labels, predictions, dtype=np.float64)[0, 1])


_CORR = Measure("corr", "Corr")  # Pearson
_MAE = Measure("mae", "MAE", lower_is_better=True)
_F1 = Measure("f1", "F1 (neg/pos)", is_percent=True)  # weighted by class

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
        # Without segments labelled 0, as in the released code.
        Measure("acc2", "Acc-2 (neg/pos)", is_percent=True),
        _F1,
        Measure("acc2_nonneg", "Acc-2 (neg/non-neg)", is_percent=True),
        Measure("f1_nonneg", "F1 (neg/non-neg)", is_percent=True),
    ),
    chosen_by=_MAE,
    in_a_line=("mae", "corr", "acc7", "acc2", "f1"),
    sums=SENTIMENT_SUMS,
    scale=SCALES["mosei"],
    released_names={"Acc7": "acc7", "Acc2": "acc2", "F1": "f1", "Corr": "corr", "MAE": "mae"},
)

SIMS_SENTIMENT = replace(
    SENTIMENT,
    score=score_sims,
    measures=(
        _MAE,
        _CORR,
        Measure("acc2", "Acc-2 (neg/pos)", is_percent=True),  # <= 0 against > 0
        _F1,
        Measure("acc3", "Acc-3", is_percent=True),
        Measure("acc5", "Acc-5", is_percent=True),
    ),
    in_a_line=("mae", "corr", "acc2", "f1", "acc5"),
    sums=SIMS_SUMS,
    scale=SCALES["sims"],
    released_names={},
)
