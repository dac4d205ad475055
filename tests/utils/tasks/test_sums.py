"""Scores from sums equal those of the segments, repeated as often as they are drawn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    # With several outputs, each has the segments in another order.
    labels, predictions = (
        np.column_stack([np.roll(np.float32(values), k) for k in range(len(task.outputs))])
        for values in (labels, predictions)
    )
    scores = task.sums.scores(counts[None] @ task.sums.terms(labels, predictions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = task.score(np.repeat(labels, counts, 0), np.repeat(predictions, counts, 0))
    assert {key: value.tolist() for key, value in scores.items()} == {
        key: [pytest.approx(value, rel=1e-6, abs=1e-6)] for key, value in expected.items()
    }


@pytest.mark.parametrize("name", TASKS)
def test_every_pair_of_values_counts(name):
    values = [-9, -3, -2, -1, -0.7, -0.5, -0.1, 0, 0.1, 0.4, 0.7, 1, 2, 2.5, 3.2, 9]
    task = TASKS[name]
    pairs = (np.float32(v).reshape(-1, 1) for v in np.meshgrid(values, values))
    x, y = (np.repeat(v, len(task.outputs), axis=1) for v in pairs)
    scores = task.sums.scores(task.sums.terms(x, y).sum(axis=0, keepdims=True))
    for key, value in task.score(x, y).items():
        assert scores[key].tolist() == [pytest.approx(value, abs=1e-6)], key


def test_the_correlation_of_large_values_stays_exact():
    rng = np.random.default_rng(0)
    x = np.float32(1000 + rng.normal(size=(500, 1)))
    y = np.float32(x + rng.normal(size=(500, 1)))
    sums = SENTIMENT.sums.terms(x, y).sum(axis=0, keepdims=True)
    assert SENTIMENT.sums.scores(sums)["corr"] == pytest.approx(SENTIMENT.score(x, y)["corr"])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_correlation_is_never_beyond_1(sign):
    """Rounding can give more than 1 for segments on a line, in double precision too."""
    rng, correlations = np.random.default_rng(0), []
    for _ in range(200):
        x = rng.normal(size=(7, 1))
        y = sign * 0.7 * x
        sums = SENTIMENT.sums.terms(x, y).sum(axis=0, keepdims=True)
        from_sums = SENTIMENT.sums.scores(sums)["corr"].item()
        correlations += [SENTIMENT.score(x, y)["corr"], from_sums]
    assert max(map(abs, correlations)) <= 1
    assert correlations == pytest.approx([sign] * len(correlations))


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
