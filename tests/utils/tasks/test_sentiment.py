from __future__ import annotations

import json
import math
import statistics
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.labels import sentiment_class
from utils.tasks import SENTIMENT, SIMS_SENTIMENT
from utils.tasks.sentiment import score, score_sims

KEYS = "mae corr acc7 acc5 acc2 f1 acc2_nonneg f1_nonneg".split()
LABELS = [-3.0, -1.5, 0.0, 0.5, 2.5, 1.0]
PREDICTIONS = [-2.6, 0.2, -0.4, 0.0, 3.9, 1.4]


def scored(labels, predictions):
    return score(np.float32(labels), np.float32(predictions))


def test_scores_worked_out_by_hand():
    expected = {
        "mae": 4.8 / 6,
        # Sums: labels -0.5, predictions 2.5, products 18.65, squares 18.75 and 24.13.
        "corr": (18.65 + 0.5 * 2.5 / 6) / math.sqrt((18.75 - 0.25 / 6) * (24.13 - 6.25 / 6)),
        # Labels -3 -2 0 0 2 1, predictions -3 0 0 0 3 1.
        "acc7": 4 / 6,
        # Labels -2 -2 0 0 2 1, predictions -2 0 0 0 2 1.
        "acc5": 5 / 6,
        # Labels - - + + +, predictions - + - + +.
        "acc2": 3 / 5,
        "f1": (3 * (2 / 3) + 2 * (1 / 2)) / 5,
        # Labels - - + + + +, predictions - + - + + +.
        "acc2_nonneg": 4 / 6,
        "f1_nonneg": (4 * (3 / 4) + 2 * (1 / 2)) / 6,
    }
    scores = scored(LABELS, PREDICTIONS)
    assert list(scores) == KEYS
    assert scores == pytest.approx(expected, abs=1e-6)


def test_perfect_predictions():
    perfect = dict.fromkeys(KEYS, 1.0) | {"mae": 0.0}
    assert scored(LABELS, LABELS) == pytest.approx(perfect)


def test_predictions_with_the_opposite_sign():
    turned = scored([-2, -1, 1, 2], [2, 1, -1, -2])
    wrong = dict.fromkeys(KEYS, 0.0) | {"mae": 3.0, "corr": -1.0}
    assert turned == pytest.approx(wrong)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(3, [-3, -3, -2, -2, 0, 0, 0, 2, 2, 3]), (2, [-2] * 4 + [0] * 3 + [2] * 3)],
)
def test_sentiments_are_rounded_and_clipped(limit, expected):
    values = np.float32([-70, -2.51, -2.5, -1.5, -0.5, 0, 0.5, 1.5, 2.5, 1e30])
    assert sentiment_class(values, limit).tolist() == expected


@pytest.mark.parametrize(
    ("labels", "predictions", "which"),
    [(LABELS, [0.1] * 6, "predictions"), ([0.1] * 6, PREDICTIONS, "labels"), ([1], [2], "labels")],
)
def test_constant_values_have_correlation_0_and_a_warning(labels, predictions, which):
    with pytest.warns(UserWarning, match=f"all {which} are .*: Corr is given as 0"):
        assert scored(labels, predictions)["corr"] == 0


def test_zero_labels_only_leave_nothing_to_tell_apart():
    with (
        pytest.warns(UserWarning, match=r"all labels are 0: Acc-2 and F1 \(neg/pos\)"),
        pytest.warns(UserWarning, match="all labels are 0: Corr"),
    ):
        scores = scored([0, 0], [1, -1])
    assert scores["acc2"] == scores["f1"] == 0
    assert scores["acc2_nonneg"] == 0.5


def test_correlation_does_not_suffer_from_float32():
    spread = np.random.default_rng(0).normal(size=5000)
    labels = np.float32(1000 + spread)
    predictions = np.float32(1000 + spread + 1)
    expected = statistics.correlation(labels.tolist(), predictions.tolist())
    assert scored(labels, predictions)["corr"] == pytest.approx(expected, abs=1e-9)


def test_scores_are_plain_numbers_for_json():
    scores = scored(LABELS, PREDICTIONS)
    assert json.loads(json.dumps(scores)) == scores


def test_lines_name_every_score_and_give_accuracies_in_percent():
    assert SENTIMENT.rows(scored(LABELS, PREDICTIONS)) == [
        ("MAE", "0.8000"),
        ("Corr", "0.9074"),
        ("Acc-7", "66.67 %"),
        ("Acc-5", "83.33 %"),
        ("Acc-2 (neg/pos)", "60.00 %"),
        ("F1 (neg/pos)", "60.00 %"),
        ("Acc-2 (neg/non-neg)", "66.67 %"),
        ("F1 (neg/non-neg)", "66.67 %"),
    ]


def plain_scores(labels, predictions):
    """Compute the scores again, one value at a time."""

    def mean(values):
        return math.fsum(values) / len(values) if values else 0.0

    def accuracy_of_classes(limit):
        def to_class(value):
            return max(-limit, min(limit, round(value)))

        return mean([to_class(y) == to_class(p) for y, p in pairs])

    def accuracy(outcomes):
        return mean([y == p for y, p in outcomes])

    def weighted_f1(outcomes):
        total = 0.0
        for label in (False, True):
            true = sum(y == p == label for y, p in outcomes)
            support = sum(y == label for y, _ in outcomes)
            predicted = sum(p == label for _, p in outcomes)
            if support:
                total += support * 2 * true / (support + predicted)
        return total / len(outcomes) if outcomes else 0.0

    pairs = list(zip(labels, predictions, strict=True))
    negative_positive = [(y > 0, p > 0) for y, p in pairs if y != 0]
    negative_or_not = [(y >= 0, p >= 0) for y, p in pairs]
    varied = min(len(set(labels)), len(set(predictions))) > 1
    return {
        "mae": mean([abs(y - p) for y, p in pairs]),
        "corr": statistics.correlation(labels, predictions) if varied else 0.0,
        "acc7": accuracy_of_classes(3),
        "acc5": accuracy_of_classes(2),
        "acc2": accuracy(negative_positive),
        "f1": weighted_f1(negative_positive),
        "acc2_nonneg": accuracy(negative_or_not),
        "f1_nonneg": weighted_f1(negative_or_not),
    }


thirds = st.integers(-9, 9).map(lambda value: float(np.float32(value / 3)))  # CMU-MOSEI's labels
halves = st.integers(-9, 9).map(lambda value: value / 2)  # where rounding and clipping matter
anything = st.floats(-5, 5, width=32, allow_subnormal=False).map(lambda value: value + 0.0)
values = thirds | halves | anything


@given(st.lists(st.tuples(values, values), min_size=1, max_size=40))
@example([(0.0, 0.0)])
@example([(1.0, 1.0), (2.0, 1.0)])
def test_scores_agree_with_the_literal_ones(pairs):
    labels, predictions = map(list, zip(*pairs, strict=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = scored(labels, predictions)
    assert scores == pytest.approx(plain_scores(labels, predictions), abs=1e-5)
    messages = " ".join(str(warning.message) for warning in caught)
    constant = min(len(set(labels)), len(set(predictions))) == 1
    assert ("Corr is given as 0" in messages) == constant
    assert ("Acc-2 and F1 (neg/pos) are given as 0" in messages) == (not any(labels))
    assert len(caught) == constant + (not any(labels))


# ---------------------------------------------------------------- CH-SIMS


def scored_as_sims(labels, predictions):
    return score_sims(np.float32(labels)[:, None], np.float32(predictions)[:, None])


def test_the_scores_of_sims_worked_out_by_hand():
    labels = [-1.0, -0.8, -0.2, 0.0, 0.2, 0.8]
    predictions = [-3.0, -0.6, 0.2, -0.4, 0.1, 2.0]  # clipped to -1 and 1
    clipped = [-1.0, -0.6, 0.2, -0.4, 0.1, 1.0]
    assert scored_as_sims(labels, predictions) == pytest.approx(
        {
            "mae": (0.2 + 0.4 + 0.4 + 0.1 + 0.2) / 6,
            "corr": statistics.correlation(labels, clipped),
            # Labels - - - - + +, predictions - - + - + +.
            "acc2": 5 / 6,
            "f1": (4 * (6 / 7) + 2 * (4 / 5)) / 6,
            # Labels - - - 0 + +, predictions - - + - 0 +.
            "acc3": 3 / 6,
            # Labels -2 -2 -1 0 1 2, predictions -2 -1 1 -1 0 2.
            "acc5": 2 / 6,
        },
        abs=1e-6,
    )


def test_a_value_on_a_border_belongs_below():
    borders = np.float32([-0.7, -0.1, 0.1, 0.7])
    classes = SIMS_SENTIMENT.scale.classes
    assert classes(borders).tolist() == [0, 1, 2, 3]
    assert classes(np.nextafter(borders, np.float32(1))).tolist() == [1, 2, 3, 4]
    just_above = np.nextafter(borders, np.float32(1))
    scores = scored_as_sims(borders, just_above)
    assert scores["acc5"] == 0
    assert scores["acc3"] == 2 / 4  # -0.7 and 0.7 are no borders of three
    zero = scored_as_sims([0.0, -0.5, 0.5], [0.0, -0.5, np.nextafter(np.float32(0), np.float32(1))])
    assert zero["acc2"] == zero["f1"] == 1


def test_sims_counts_zeros_among_the_negatives():
    scores = scored_as_sims([0.0, 0.0, 0.6, -0.6], [-0.2, 0.2, 0.3, 0.0])
    assert scores["acc2"] == 3 / 4


def plain_scores_of_sims(pairs):
    """Compute CH-SIMS's scores again, one value at a time, in float32's values."""
    pairs = [tuple(max(-1.0, min(1.0, value)) for value in pair) for pair in pairs]

    def share(borders):
        limits = [float(np.float32(border)) for border in borders]
        same = [sum(y > b for b in limits) == sum(p > b for b in limits) for y, p in pairs]
        return sum(same) / len(same)

    return {
        "mae": math.fsum(abs(y - p) for y, p in pairs) / len(pairs),
        "acc2": share([0]),
        "acc3": share([-0.1, 0.1]),
        "acc5": share([-0.7, -0.1, 0.1, 0.7]),
    }


tenths = st.integers(-15, 15).map(lambda value: float(np.float32(value / 10)))


@given(st.lists(st.tuples(tenths | anything, tenths | anything), min_size=1, max_size=30))
def test_the_scores_of_sims_agree_with_the_literal_ones(pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = scored_as_sims(*map(list, zip(*pairs, strict=True)))
    expected = plain_scores_of_sims(pairs)
    assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_every_measure_of_sims_is_scored_and_named():
    scores = scored_as_sims([1, -1], [0.5, -0.5])
    assert {measure.key for measure in SIMS_SENTIMENT.measures} == scores.keys()
    assert SIMS_SENTIMENT.line(scores).startswith("MAE 0.5000  Corr 1.0000  Acc-2 100.00 %")
    assert {measure.key: measure.text(0.5) for measure in SIMS_SENTIMENT.measures} == {
        **dict.fromkeys(["mae", "corr"], "0.5000"),
        **dict.fromkeys(["acc2", "f1", "acc3", "acc5"], "50.00 %"),
    }
