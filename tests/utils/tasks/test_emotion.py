"""The scores of six emotions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.labels import EMOTIONS
from utils.tasks import EMOTION
from utils.tasks.emotion import weighted_accuracy

COLUMNS = len(EMOTIONS)


def scored(labels, predictions):
    """Score one emotion's values, the same for all six."""
    return EMOTION.score(*(np.float32([column] * COLUMNS).T for column in (labels, predictions)))


def test_scores_worked_out_by_hand():
    # Present: true - - - - + +, predicted - - + - + -.
    scores = scored([0, 0, 0, 0, 1, 2], [-1, 0, 0.5, 0, 3, 0])
    expected = {
        "mae": (1 + 0.5 + 2 + 2) / 6,
        "wacc": (1 * 4 / 2 + 3) / (2 * 4),  # (TP N/P + TN) / 2N
        "f1": (4 * (6 / 8) + 2 * (2 / 4)) / 6,
    }
    assert {key: scores[key] for key in expected} == pytest.approx(expected)
    for name in EMOTIONS:
        assert {key: scores[f"{key}_{name}"] for key in expected} == pytest.approx(expected)


def test_each_column_is_an_emotion_and_the_mean_is_over_them():
    labels = np.eye(COLUMNS, dtype=np.float32)
    predictions = labels.copy()
    predictions[:, 1] = 1  # sad is always said
    scores = EMOTION.score(labels, predictions)
    assert (scores["wacc_happy"], scores["wacc_sad"], scores["wacc"]) == (1, 0.5, 5.5 / 6)
    assert scores["mae_sad"] == pytest.approx(5 / 6)
    assert EMOTION.columns == [1, 2, 3, 4, 5, 6]
    assert list(EMOTION.outputs) == ["happy", "sad", "anger", "surprise", "disgust", "fear"]


@pytest.mark.filterwarnings("ignore:.* segment is labelled")
@pytest.mark.parametrize(("labels", "which"), [([0, 0, 0, 0], "no"), ([1, 1, 2, 3], "every")])
def test_an_emotion_that_no_or_every_segment_has_is_scored_with_a_warning(labels, which):
    predictions = [0.5, 1, -1, 2] if any(labels) else [0.5, -1, -1, 0]
    with pytest.warns(UserWarning, match=f"{which} segment is labelled sad: its weighted acc"):
        scores = scored(labels, predictions)
    assert scores["wacc"] == 3 / 4
    assert all(map(math.isfinite, scores.values()))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_weighted_accuracy_is_its_formula(pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accuracy = weighted_accuracy("sad", *np.array(pairs).T)
    p, tp = sum(y for y, _ in pairs), sum(y and x for y, x in pairs)
    n, tn = len(pairs) - p, sum(not y and not x for y, x in pairs)
    expected = (tp * n / p + tn) / (2 * n) if p and n else (tp + tn) / len(pairs)
    assert accuracy == pytest.approx(expected)


def test_every_measure_is_scored_and_named():
    scores = scored([0, 1], [1, 1])
    assert {measure.key for measure in EMOTION.measures} == scores.keys()
    assert EMOTION.line(scores) == "MAE 0.5000  WAcc 50.00 %  F1 33.33 %"
    assert EMOTION.to_minimise({"mae": 0.5}) == 0.5
