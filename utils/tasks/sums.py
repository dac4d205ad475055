"""The tasks' scores computed from sums over segments, for many resamples at once.

They equal those of `utils.tasks.sentiment` and `utils.tasks.emotion`, but without warnings;
sentiment scores that are not defined are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from data.labels import EMOTIONS, SIMS_BORDERS, class_between, sentiment_class
from utils.tasks.task import Sums

# The classes that an accuracy compares, by its key; those of CMU-MOSEI, and those of CH-SIMS.
Classes = Mapping[str, Callable[[np.ndarray], np.ndarray]]
CLASSES: Classes = {"acc7": sentiment_class, "acc5": partial(sentiment_class, limit=2)}
SIMS_CLASSES: Classes = {
    "acc3": partial(class_between, borders=SIMS_BORDERS[1:3]),
    "acc5": partial(class_between, borders=SIMS_BORDERS),
}


def _moments(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return per-segment terms `(N,)` whose sums give MAE and the correlation of `x` and `y`."""
    # Without `dtype`, NumPy 1 subtracts in float32.
    dx, dy = (np.subtract(v, v.mean(dtype=np.float64), dtype=np.float64) for v in (x, y))
    return [np.ones(len(x)), np.abs(x - y), dx, dy, dx * dx, dy * dy, dx * dy]


def _mae_and_corr(sums: np.ndarray) -> dict[str, np.ndarray]:
    n, error, x, y, xx, yy, xy = sums.T
    x_spread, y_spread = n * xx - x * x, n * yy - y * y
    # Rounding can leave a tiny spread for constant values.
    varies = (x_spread > 1e-12 * n * xx) & (y_spread > 1e-12 * n * yy)
    corr = _ratio(n * xy - x * y, np.sqrt(np.where(varies, x_spread * y_spread, 0)))
    return {"mae": error / n, "corr": np.clip(corr, -1, 1)}


def _pairs(labels: np.ndarray, predictions: np.ndarray) -> list[np.ndarray]:
    """Return, for each pair of a label and a prediction (0 or 1), which segments have it."""
    return [(labels == label) & (predictions == p) for label in (0, 1) for p in (0, 1)]


def _accuracy_and_f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracy, and F1 weighted by class, from the counts of `_pairs`."""
    true_neg, false_pos, false_neg, true_pos = counts.T
    wrong, n = false_pos + false_neg, counts.sum(axis=1)
    f1_neg = (true_neg + false_pos) * _ratio(2 * true_neg, 2 * true_neg + wrong)
    f1_pos = (true_pos + false_neg) * _ratio(2 * true_pos, 2 * true_pos + wrong)
    return _ratio(true_neg + true_pos, n), _ratio(f1_neg + f1_pos, n)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return ratio


def _terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.reshape(-1), y.reshape(-1)
    correct = [to_class(x) == to_class(y) for to_class in CLASSES.values()]
    not_zero = [pair & (x != 0) for pair in _pairs(x > 0, y > 0)]
    return np.column_stack([*_moments(x, y), *correct, *not_zero, *_pairs(x >= 0, y >= 0)])


def _scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    acc2, f1 = _accuracy_and_f1(sums[:, 9:13])
    acc2_nonneg, f1_nonneg = _accuracy_and_f1(sums[:, 13:])
    accuracies = dict(zip(CLASSES, sums[:, 7:9].T / sums[:, 0], strict=True))
    binary = {"acc2": acc2, "f1": f1, "acc2_nonneg": acc2_nonneg, "f1_nonneg": f1_nonneg}
    return _mae_and_corr(sums[:, :7]) | accuracies | binary


def _sims_terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (np.clip(v.reshape(-1), -1, 1) for v in (x, y))
    correct = [to_class(x) == to_class(y) for to_class in SIMS_CLASSES.values()]
    return np.column_stack([*_moments(x, y), *correct, *_pairs(x > 0, y > 0)])


def _sims_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    acc2, f1 = _accuracy_and_f1(sums[:, 9:])
    accuracies = dict(zip(SIMS_CLASSES, sums[:, 7:9].T / sums[:, 0], strict=True))
    return _mae_and_corr(sums[:, :7]) | {"acc2": acc2, "f1": f1} | accuracies


def _emotion_terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return, for each emotion of labels and predictions `(N, 6)`, the error and the `_pairs`."""
    terms: list[np.ndarray] = []
    for labels, predictions in zip(x.T, y.T, strict=True):
        terms.extend([np.abs(labels - predictions), *_pairs(labels > 0, predictions > 0)])
    return np.column_stack(terms)


def _emotion_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    by_emotion = {}
    for name, columns in zip(EMOTIONS, np.split(sums, len(EMOTIONS), axis=1), strict=True):
        counts = columns[:, 1:]
        _, f1 = _accuracy_and_f1(counts)
        mae = columns[:, 0] / counts.sum(axis=1)
        by_emotion[name] = {"mae": mae, "wacc": _weighted_accuracy(counts), "f1": f1}
    keys = ("mae", "wacc", "f1")
    means = {key: np.mean([by_emotion[name][key] for name in EMOTIONS], axis=0) for key in keys}
    scores = {f"{key}_{name}": by_emotion[name][key] for name in EMOTIONS for key in keys}
    return means | scores


def _weighted_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the mean of both classes' recalls; if only one class is present, its recall."""
    true_neg, false_pos, false_neg, true_pos = counts.T
    negatives, positives = true_neg + false_pos, false_neg + true_pos
    classes = (negatives > 0).astype(float) + (positives > 0)
    mean: np.ndarray = (_ratio(true_neg, negatives) + _ratio(true_pos, positives)) / classes
    return mean


EMOTION_SUMS = Sums(_emotion_terms, _emotion_scores)
SENTIMENT_SUMS = Sums(_terms, _scores)
SIMS_SUMS = Sums(_sims_terms, _sims_scores)
