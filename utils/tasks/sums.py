"""Scores that follow from sums over segments, and so those of many resamples at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sums:
    """A task's scores from sums over segments; what is not defined is 0."""

    terms: Callable[[np.ndarray, np.ndarray], list[np.ndarray]]  # of targets, predictions: K (N,)
    scores: Callable[[np.ndarray], dict[str, np.ndarray]]  # of sums (R, K), each measure's (R,)

    def score(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Return the scores of all segments, each counted once."""
        sums = [term.sum(dtype=np.float64) for term in self.terms(labels, predictions)]
        return {key: values.item() for key, values in self.scores(np.array([sums])).items()}


def moments(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return what MAE and the correlation of labels and predictions `(N,)` are made of."""
    # NumPy 1 would subtract in float32 without being told.
    dx, dy = (np.subtract(v, v.mean(dtype=np.float64), dtype=np.float64) for v in (x, y))
    return [np.ones(len(x)), np.abs(x - y), dx, dy, dx * dx, dy * dy, dx * dy]


def mae_and_corr(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return both of the sums of `moments` `(R, 7)`; Corr is Pearson's."""
    n, error, x, y, xx, yy, xy = sums.T
    x_spread, y_spread = n * xx - x * x, n * yy - y * y
    # What rounding leaves of a constant's spread is none.
    varies = (x_spread > 1e-12 * n * xx) & (y_spread > 1e-12 * n * yy)
    corr = ratio(n * xy - x * y, np.sqrt(np.where(varies, x_spread * y_spread, 0)))
    return {"mae": error / n, "corr": np.clip(corr, -1, 1)}


def pairs(labels: np.ndarray, predictions: np.ndarray) -> list[np.ndarray]:
    """Return which of the four pairs of truth values each segment is."""
    return [(labels == one) & (predictions == other) for one in (0, 1) for other in (0, 1)]


def accuracy_and_f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracy, and F1 weighted by class, of how often there was each of the pairs."""
    true_neg, false_pos, false_neg, true_pos = counts.T
    wrong, n = false_pos + false_neg, counts.sum(axis=1)
    of_neg = (true_neg + false_pos) * ratio(2 * true_neg, 2 * true_neg + wrong)
    of_pos = (true_pos + false_neg) * ratio(2 * true_pos, 2 * true_pos + wrong)
    return ratio(true_neg + true_pos, n), ratio(of_neg + of_pos, n)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide `(R,)` by `(R,)`; 0 where that is not defined."""
    quotient: np.ndarray = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return quotient
