"""Scores from sums are scikit-learn's and NumPy's, of each segment as often as it is drawn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, mean_absolute_error

from data.labels import EMOTIONS
from utils.tasks import EMOTION, SENTIMENT, SIMS_SENTIMENT

TASKS = {"mosei": SENTIMENT, "sims": SIMS_SENTIMENT, "emotion": EMOTION}
# On borders of classes, at 0, and far out.
VALUES = st.sampled_from([-9, -3, -1.5, -0.7, -0.5, -0.1, 0, 0.1, 0.4, 0.7, 1, 2.5, 3.2])
PAIRS = st.lists(st.tuples(VALUES, VALUES, st.integers(0, 3)), min_size=1, max_size=12)


def accuracy_and_f1(x, y):
    if not len(x):
        return 0, 0
    return accuracy_score(x, y), f1_score(x, y, average="weighted", zero_division=0)


def mae_and_corr(x, y):
    varies = np.ptp(x) and np.ptp(y)
    corr = np.corrcoef(x, y, dtype=np.float64)[0, 1] if varies else 0
    return {"mae": mean_absolute_error(x, y), "corr": corr}


def share_alike(x, y, borders):
    return accuracy_score(*(np.digitize(v, np.float32(borders), right=True) for v in (x, y)))


def expected_scores(name, x, y):
    """Return a task's scores of labels and predictions, by other code than the program's."""
    if name == "emotion":
        by_emotion = [
            {
                "mae": mean_absolute_error(a, b),
                "wacc": balanced_accuracy_score(a > 0, b > 0),
                "f1": accuracy_and_f1(a > 0, b > 0)[1],
            }
            for a, b in zip(x.T, y.T, strict=True)
        ]
        means = {key: np.mean([of[key] for of in by_emotion]) for key in by_emotion[0]}
        names = zip(EMOTIONS, by_emotion, strict=True)
        return means | {f"{key}_{one}": of[key] for one, of in names for key in of}
    x, y = x.ravel(), y.ravel()
    if name == "sims":
        x, y = np.clip(x, -1, 1), np.clip(y, -1, 1)
        acc2, f1 = accuracy_and_f1(x > 0, y > 0)
        acc3, acc5 = (share_alike(x, y, b) for b in ([-0.1, 0.1], [-0.7, -0.1, 0.1, 0.7]))
        return {**mae_and_corr(x, y), "acc2": acc2, "f1": f1, "acc3": acc3, "acc5": acc5}
    acc2, f1 = accuracy_and_f1(x[x != 0] > 0, y[x != 0] > 0)
    acc2_nonneg, f1_nonneg = accuracy_and_f1(x >= 0, y >= 0)
    acc7, acc5 = (
        accuracy_score(*(np.rint(v).clip(-most, most).astype(int) for v in (x, y)))
        for most in (3, 2)
    )
    binary = {"acc2": acc2, "f1": f1, "acc2_nonneg": acc2_nonneg, "f1_nonneg": f1_nonneg}
    return {**mae_and_corr(x, y), "acc7": acc7, "acc5": acc5, **binary}


@pytest.mark.parametrize("name", TASKS)
@given(PAIRS.filter(lambda pairs: any(count for *_, count in pairs)))
def test_they_are_the_scores_of_the_segments_repeated(name, pairs):
    task = TASKS[name]
    labels, predictions, counts = (np.array(column) for column in zip(*pairs, strict=True))
    # Of several outputs, each has the segments in another order.
    labels, predictions = (
        np.column_stack([np.roll(np.float32(values), k) for k in range(len(task.outputs))])
        for values in (labels, predictions)
    )
    found = task.sums.scores(counts[None] @ task.sums.terms(labels, predictions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        repeated = np.repeat(labels, counts, 0), np.repeat(predictions, counts, 0)
        expected = expected_scores(name, *repeated)
    assert {key: value.tolist() for key, value in found.items()} == {
        key: [pytest.approx(value, rel=1e-6, abs=1e-6)] for key, value in expected.items()
    }


@pytest.mark.parametrize("name", TASKS)
def test_every_pair_of_values_counts(name):
    values = [-9, -3, -2, -1, -0.7, -0.5, -0.1, 0, 0.1, 0.4, 0.7, 1, 2, 2.5, 3.2, 9]
    task = TASKS[name]
    pairs = (np.float32(v).reshape(-1, 1) for v in np.meshgrid(values, values))
    x, y = (np.repeat(v, len(task.outputs), axis=1) for v in pairs)
    assert task.score(x, y) == pytest.approx(expected_scores(name, x, y), abs=1e-6)


def test_the_correlation_of_large_values_stays_exact():
    rng = np.random.default_rng(0)
    x = np.float32(1000 + rng.normal(size=(500, 1)))
    y = np.float32(x + rng.normal(size=(500, 1)))
    expected = np.corrcoef(x.ravel(), y.ravel(), dtype=np.float64)[0, 1]
    assert SENTIMENT.score(x, y)["corr"] == pytest.approx(expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_correlation_is_never_beyond_1(sign):
    """As rounding would have it, of segments on a line, in double precision too."""
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        x = rng.normal(size=(7, 1))
        y = sign * 0.7 * x
        found.append(SENTIMENT.score(x, y)["corr"])
    assert max(map(abs, found)) <= 1
    assert found == pytest.approx([sign] * len(found))


def test_what_rounding_leaves_of_constants_is_no_correlation():
    """In draws that happen to have one value, of segments that vary, beside others and alike."""
    rng = np.random.default_rng(0)
    values = np.float32([1 / 3, 1 / 7, 0.1, 0.7, 3]) * 1e6
    for draws in (10, 60, 977):
        constant = [np.full((draws, 1), value) for value in values]
        varied = np.float32(rng.normal(scale=1e6, size=(draws, 1)))
        pairs = [(x, y) for x in constant for y in [*constant, varied]]
        for x, y in [*pairs, *((varied, y) for y in constant)]:
            others = np.full((3, 1), np.float32(-2e6))
            terms = SENTIMENT.sums.terms(np.concatenate([x, others]), np.concatenate([y, others]))
            sums = terms[:draws].sum(axis=0, keepdims=True)
            assert SENTIMENT.sums.scores(sums)["corr"].tolist() == [0]
