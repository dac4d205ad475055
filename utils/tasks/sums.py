"""The tasks' scores from sums over segments, and so those of many resamples at once.

They are those of `utils.tasks.sentiment` and `utils.tasks.emotion`, without their warnings; one of
sentiment that is not defined is 0.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from data.labels import EMOTIONS, SIMS_BORDERS, class_between, sentiment_class
from utils.tasks.task import Sums


def _moments(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return what MAE and the correlation of labels and predictions `(N,)` are made of."""
    # NumPy 1 would subtract in float32 without being told.
    dx, dy = (np.subtract(v, v.mean(dtype=np.float64), dtype=np.float64) for v in (x, y))
    return [np.ones(len(x)), np.abs(x - y), dx, dy, dx * dx, dy * dy, dx * dy]


def _mae_and_corr(sums: np.ndarray) -> dict[str, np.ndarray]:
    n, error, x, y, xx, yy, xy = sums.T
    x_spread, y_spread = n * xx - x * x, n * yy - y * y
    # What rounding leaves of a constant's spread is none.
    varies = (x_spread > 1e-12 * n * xx) & (y_spread > 1e-12 * n * yy)
    corr = _ratio(n * xy - x * y, np.sqrt(np.where(varies, x_spread * y_spread, 0)))
    return {"mae": error / n, "corr": np.clip(corr, -1, 1)}


def _pairs(labels: np.ndarray, predictions: np.ndarray) -> list[np.ndarray]:
    """Return which of the four pairs of truth values each segment is."""
    return [(labels == one) & (predictions == other) for one in (0, 1) for other in (0, 1)]


def _accuracy_and_f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracy, and F1 weighted by class, of how often there was each of the pairs."""
    true_neg, false_pos, false_neg, true_pos = counts.T
    wrong, n = false_pos + false_neg, counts.sum(axis=1)
    of_neg = (true_neg + false_pos) * _ratio(2 * true_neg, 2 * true_neg + wrong)
    of_pos = (true_pos + false_neg) * _ratio(2 * true_pos, 2 * true_pos + wrong)
    return _ratio(true_neg + true_pos, n), _ratio(of_neg + of_pos, n)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return ratio


def _terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.reshape(-1), y.reshape(-1)
    right = [sentiment_class(x, limit) == sentiment_class(y, limit) for limit in (3, 2)]
    signed = [pair & (x != 0) for pair in _pairs(x > 0, y > 0)]
    return np.column_stack([*_moments(x, y), *right, *signed, *_pairs(x >= 0, y >= 0)])


def _scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    acc2, f1 = _accuracy_and_f1(sums[:, 9:13])
    acc2_nonneg, f1_nonneg = _accuracy_and_f1(sums[:, 13:])
    right = dict(zip(("acc7", "acc5"), sums[:, 7:9].T / sums[:, 0], strict=True))
    binary = {"acc2": acc2, "f1": f1, "acc2_nonneg": acc2_nonneg, "f1_nonneg": f1_nonneg}
    return _mae_and_corr(sums[:, :7]) | right | binary


def _sims_terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (np.clip(v.reshape(-1), -1, 1) for v in (x, y))
    to_classes = [partial(class_between, borders=b) for b in (SIMS_BORDERS[1:3], SIMS_BORDERS)]
    right = [to_class(x) == to_class(y) for to_class in to_classes]
    return np.column_stack([*_moments(x, y), *right, *_pairs(x > 0, y > 0)])


def _sims_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    acc2, f1 = _accuracy_and_f1(sums[:, 9:])
    right = dict(zip(("acc3", "acc5"), sums[:, 7:9].T / sums[:, 0], strict=True))
    return _mae_and_corr(sums[:, :7]) | {"acc2": acc2, "f1": f1} | right


def _emotion_terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the error of each emotion of `(N, 6)`, and which of the four pairs it is."""
    terms = [[np.abs(a - b), *_pairs(a > 0, b > 0)] for a, b in zip(x.T, y.T, strict=True)]
    return np.column_stack([term for of_one in terms for term in of_one])


def _emotion_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    by_emotion = {}
    for name, of_one in zip(EMOTIONS, np.split(sums, len(EMOTIONS), axis=1), strict=True):
        counts = of_one[:, 1:]
        _, f1 = _accuracy_and_f1(counts)
        mae = of_one[:, 0] / counts.sum(axis=1)
        by_emotion[name] = {"mae": mae, "wacc": _weighted_accuracy(counts), "f1": f1}
    keys = ("mae", "wacc", "f1")
    means = {key: np.mean([of[key] for of in by_emotion.values()], axis=0) for key in keys}
    of_each = {f"{key}_{name}": by_emotion[name][key] for name in EMOTIONS for key in keys}
    return means | of_each


def _weighted_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the mean of both classes' recalls; where there is one class, its recall."""
    true_neg, false_pos, false_neg, true_pos = counts.T
    negatives, positives = true_neg + false_pos, false_neg + true_pos
    classes = (negatives > 0).astype(float) + (positives > 0)
    mean: np.ndarray = (_ratio(true_neg, negatives) + _ratio(true_pos, positives)) / classes
    return mean


EMOTION_SUMS = Sums(_emotion_terms, _emotion_scores)
SENTIMENT_SUMS = Sums(_terms, _scores)
SIMS_SUMS = Sums(_sims_terms, _sims_scores)
