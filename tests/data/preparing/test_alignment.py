"""The aligner against the literal one, on any intervals at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.formats.csd import sort_order
from data.preparing.alignment import (
    EPSILON,
    is_long_enough,
    means,
    pad_in_front,
    rows_of_segments,
)
from system.errors import InputError
from tests.plain import plain_padded, plain_rows

# Times on a coarse grid touch and coincide often; nudges of half and twice epsilon test the rule.
times = st.builds(
    lambda step, nudge: step / 4 + nudge * EPSILON,
    st.integers(0, 40),
    st.sampled_from([0, 0, 0, 0.5, -0.5, 2, -2]),
)
interval_lists = st.lists(st.tuples(times, times), max_size=30)


def as_intervals(pairs):
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


@given(interval_lists, interval_lists)
def test_rows_are_the_literal_aligners(rows, segments):
    intervals = as_intervals(rows)
    intervals = intervals[sort_order(intervals)]
    members = rows_of_segments(intervals, as_intervals(segments))
    assert len(members.counts) == len(segments)
    for index, (start, end) in enumerate(segments):
        assert members[index].tolist() == plain_rows(intervals, start, end)


@given(interval_lists)
def test_sort_is_by_start_and_stable(rows):
    intervals = as_intervals(rows)
    assert sort_order(intervals).tolist() == sorted(
        range(len(rows)), key=lambda row: intervals[row, 0]
    )


def test_rows_without_a_time_belong_nowhere():
    intervals = np.array([[2.0, 3.0], [np.nan, 1.0], [0.0, np.nan], [1.0, 2.0]])
    assert sort_order(intervals).tolist() == [3, 0]


def test_a_row_that_only_touches_does_not_belong():
    intervals = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    assert rows_of_segments(intervals, np.array([[1.0, 2.0]]))[0].tolist() == [1]


@pytest.mark.parametrize("limit", ["600 comparisons", "2,000 overlaps"])
def test_rows_and_segments_that_all_lie_at_the_same_time_are_refused(monkeypatch, limit):
    most_blocks = 3 if "comparisons" in limit else 100
    monkeypatch.setattr("data.preparing.alignment._ALWAYS_FITS", 2000)
    monkeypatch.setattr("data.preparing.alignment._COMPARED_AT_ONCE", 200)
    monkeypatch.setattr("data.preparing.alignment._MAX_BLOCKS", most_blocks)
    intervals = np.tile([0.0, 1.0], (100, 1))
    with pytest.raises(InputError, match=f"^file, video x: more than {limit} of its 100 rows"):
        rows_of_segments(intervals, intervals, "file, video x")


@pytest.mark.parametrize("at_once", [1, 7, 100, 10**9])
def test_a_row_with_a_wrong_end_is_only_compared_with_more_segments(monkeypatch, at_once):
    edges = np.arange(41.0)
    intervals, segments = (np.stack([x[:-1], x[1:]], axis=1) for x in (edges, edges[::2]))
    intervals[0, 1] = 1000.0
    monkeypatch.setattr("data.preparing.alignment._COMPARED_AT_ONCE", at_once)
    monkeypatch.setattr("data.preparing.alignment._MAX_BLOCKS", 1000)
    groups = list(rows_of_segments(intervals, segments))
    assert [group.tolist() for group in groups] == [
        sorted({0, 2 * k, 2 * k + 1}) for k in range(20)
    ]


def test_any_number_of_rows_that_are_each_in_one_segment_fits(monkeypatch):
    monkeypatch.setattr("data.preparing.alignment._ALWAYS_FITS", 10)
    edges = np.arange(41.0)
    intervals = np.stack([edges[:-1], edges[1:]], axis=1)
    segments = np.stack([edges[:-1:2], edges[2::2]], axis=1)
    assert rows_of_segments(intervals, segments).counts.tolist() == [2] * 20


def test_an_interval_as_long_as_epsilon_is_a_segment():
    assert is_long_enough(np.array([[0, EPSILON], [0, 0.99 * EPSILON]])).tolist() == [True, False]


def test_an_overlap_as_long_as_epsilon_does_not_count():
    segments = np.array([[0.0, EPSILON], [0.0, 1.01 * EPSILON]])
    assert rows_of_segments(np.array([[0.0, 1.0]]), segments).counts.tolist() == [0, 1]


def test_intervals_shorter_than_epsilon_are_no_segments():
    intervals = np.array([[1.0, 1.0], [1.0, 1.0 + EPSILON / 2], [1.0, 1.0 + 2 * EPSILON]])
    assert is_long_enough(intervals).tolist() == [False, False, True]


@given(interval_lists, interval_lists, st.integers(0, 2**32 - 1))
def test_means_are_those_of_the_members(rows, segments, seed):
    intervals = as_intervals(rows)
    intervals = intervals[sort_order(intervals)]
    features = np.random.default_rng(seed).normal(size=(len(rows), 3)).astype(np.float32)
    averages = means(features, rows_of_segments(intervals, as_intervals(segments)))
    for index, (start, end) in enumerate(segments):
        members = features[plain_rows(intervals, start, end)]
        expected = members.mean(axis=0) if len(members) else np.zeros(3)
        np.testing.assert_allclose(averages[index], expected, rtol=1e-5, atol=1e-6)


def test_means_of_half_precision_are_of_values_whose_sum_it_cannot_hold():
    features = np.full((4, 1), 40_000, np.float16)
    times = np.arange(4.0)
    intervals = np.stack([times, times + 1], axis=1)
    averages = means(features, rows_of_segments(intervals, np.array([[0.0, 4.0]])))
    assert averages.tolist() == features[:1].astype(np.float32).tolist()


def test_infinity_spoils_only_its_own_mean():
    features = np.array([[1.0], [-np.inf], [3.0], [5.0]])
    intervals = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    segments = np.array([[0.0, 2.0], [2.0, 4.0], [9.0, 10.0]])
    averages = means(features, rows_of_segments(intervals, segments))
    assert averages[:, 0].tolist() == [-np.inf, 4.0, 0.0]


@given(st.lists(st.integers(0, 8)), st.integers(8, 10))
def test_padding_is_in_front(counts, length):
    features = np.arange(1.0, sum(counts) * 2 + 1).reshape(-1, 2)
    padded = pad_in_front(features, counts, length)
    assert padded.dtype == np.float32
    assert padded.shape == (len(counts), length, 2)
    groups = np.split(features, np.cumsum(counts))
    for rows, group in zip(padded, groups, strict=False):
        np.testing.assert_array_equal(rows, plain_padded(list(group), length, 2))
