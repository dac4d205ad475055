"""Metrics as scikit-learn computes them, which takes a second to import: where they are wanted."""

from __future__ import annotations

import numpy as np


def mean_absolute_error(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return MAE of values `(n,)` or `(n, outputs)`."""
    from sklearn import metrics

    return float(metrics.mean_absolute_error(labels, predictions))


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the share of classes `(n,)` that are right."""
    from sklearn import metrics

    return float(metrics.accuracy_score(labels, predictions))


def accuracy_and_f1(labels: np.ndarray, predictions: np.ndarray) -> tuple[float, float]:
    """Return accuracy and F1, weighted by class, of truth values `(n,)`; 0 where n is 0."""
    from sklearn import metrics

    if not len(labels):
        return 0.0, 0.0
    # Each pair of classes once, weighted by how often it is: a million rows become four.
    counts = np.bincount(2 * labels.astype(np.int8) + predictions, minlength=4)
    true, predicted = np.repeat([False, True], 2), np.tile([False, True], 2)
    share = metrics.accuracy_score(true, predicted, sample_weight=counts)
    f1 = metrics.f1_score(
        true, predicted, sample_weight=counts, average="weighted", zero_division=0
    )
    return float(share), float(f1)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Count how often each class was taken for which, `(classes, classes)`."""
    from sklearn import metrics

    counts: np.ndarray = metrics.confusion_matrix(labels, predictions, labels=range(classes))
    return counts
