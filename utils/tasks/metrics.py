"""Metrics as scikit-learn computes them; it is imported at the first use, which takes a second."""

from __future__ import annotations

import numpy as np


def mean_absolute_error(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return MAE of values `(n,)`."""
    from sklearn import metrics

    return float(metrics.mean_absolute_error(labels, predictions))


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the share of predicted classes `(n,)` that are correct."""
    return float(np.mean(labels == predictions))


def accuracy_and_f1(labels: np.ndarray, predictions: np.ndarray) -> tuple[float, float]:
    """Return accuracy and F1, weighted by class, of truth values `(n,)`; 0 where n is 0."""
    from sklearn import metrics

    if not len(labels):
        return 0.0, 0.0
    f1 = metrics.f1_score(labels, predictions, average="weighted", zero_division=0)
    return accuracy(labels, predictions), float(f1)
