"""Scores of values that are cut into two classes."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import accuracy_score, f1_score


def accuracy_and_f1(labels: np.ndarray, predictions: np.ndarray) -> tuple[float, float]:
    """Return accuracy and F1, weighted by class, of truth values `(n,)`; 0 where n is 0."""
    if not len(labels):
        return 0.0, 0.0
    # Each pair of classes once, weighted by how often it is: a million rows become four.
    counts = np.bincount(2 * labels.astype(np.int8) + predictions, minlength=4)
    true, predicted = np.repeat([False, True], 2), np.tile([False, True], 2)
    accuracy = accuracy_score(true, predicted, sample_weight=counts)
    f1 = f1_score(true, predicted, sample_weight=counts, average="weighted", zero_division=0)
    return float(accuracy), float(f1)
