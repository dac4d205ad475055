"""Scores from sums are those of the segments, each as often as it is drawn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from utils.tasks import EMOTION, SENTIMENT, SIMS_SENTIMENT

TASKS = {"mosei": SENTIMENT, "sims": SIMS_SENTIMENT, "emotion": EMOTION}
# On borders of classes, at 0, and far out.
VALUES = st.sampled_from([-9, -3, -1.5, -0.7, -0.5, -0.1, 0, 0.1, 0.4, 0.7, 1, 2.5, 3.2])
PAIRS = st.lists(st.tuples(VALUES, VALUES, st.integers(0, 3)), min_size=1, max_size=12)


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
    found = task.sums.scores(counts[None] @ np.transpose(task.sums.terms(labels, predictions)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = task.score(np.repeat(labels, counts, 0), np.repeat(predictions, counts, 0))
    assert {key: value.tolist() for key, value in found.items()} == {
        key: [pytest.approx(value, rel=1e-6, abs=1e-6)] for key, value in expected.items()
    }


VALUES_AROUND = np.float32([-9, -3, -2, -1, -0.7, -0.5, -0.1, 0, 0.1, 0.4, 0.7, 1, 2, 2.5, 3.2, 9])


def binary(x, y):
    return metrics.accuracy_score(x, y), metrics.f1_score(x, y, average="weighted")


@pytest.mark.parametrize("name", TASKS)
def test_every_pair_of_values_counts_as_scikit_learn_does(name):
    task = TASKS[name]
    x, y = (v.ravel() for v in np.meshgrid(VALUES_AROUND, VALUES_AROUND))
    found = task.score(*(np.repeat(v[:, None], len(task.outputs), axis=1) for v in (x, y)))
    if name == "sims":
        x, y = x.clip(-1, 1), y.clip(-1, 1)
    expected = {"mae": metrics.mean_absolute_error(x, y), "corr": np.corrcoef(x, y)[0, 1]}
    expected["acc2"], expected["f1"] = binary(x > 0, y > 0)
    expected["wacc"] = metrics.balanced_accuracy_score(x > 0, y > 0)
    if name == "mosei":
        expected["acc2"], expected["f1"] = binary(x[x != 0] > 0, y[x != 0] > 0)
        expected["acc2_nonneg"], expected["f1_nonneg"] = binary(x >= 0, y >= 0)
        for key, limit in (("acc7", 3), ("acc5", 2)):
            classes = (np.round(v).clip(-limit, limit) for v in (x, y))
            expected[key] = metrics.accuracy_score(*classes)
    expected = {key: value for key, value in expected.items() if key in found}
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_the_correlation_of_large_values_stays_exact():
    rng = np.random.default_rng(0)
    x = np.float32(1000 + rng.normal(size=(500, 1)))
    y = np.float32(x + rng.normal(size=(500, 1)))
    expected = np.corrcoef(np.float64(x[:, 0]), np.float64(y[:, 0]))[0, 1]
    assert SENTIMENT.score(x, y)["corr"] == pytest.approx(expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_correlation_is_never_beyond_1(sign):
    """As rounding would have it, of segments on a line, in double precision too."""
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        x = rng.normal(size=(7, 1))
        found.append(SENTIMENT.score(x, sign * 0.7 * x)["corr"])
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
            sums = np.array([[term[:draws].sum() for term in terms]])
            assert SENTIMENT.sums.scores(sums)["corr"].tolist() == [0]
