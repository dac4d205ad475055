"""Which rows belong to which segment. Pure NumPy, no files.

Times are seconds, float64. A row and a segment are half-lines of a table: `starts[i], ends[i]`.
The rule is the CMU SDK's, as the released script uses it.
"""

from __future__ import annotations

import numpy as np

EPSILON = 1e-5  # seconds; overlaps and label intervals shorter than this do not count


def sort_order(intervals: np.ndarray) -> np.ndarray:
    """Return the rows of `intervals` `(n, 2)` by start time, ties in file order.

    Rows without a time (NaN) belong to no segment and are left out.
    """
    timed = np.flatnonzero(~np.isnan(intervals).any(axis=1))
    return timed[np.argsort(intervals[timed, 0], kind="stable")]


def is_long_enough(segments: np.ndarray) -> np.ndarray:
    """Tell which label intervals `(k, 2)` are long enough to be segments, `(k,)` bool."""
    return segments[:, 1] - segments[:, 0] >= EPSILON


def rows_of_segments(intervals: np.ndarray, segments: np.ndarray) -> list[np.ndarray]:
    """Return, for each segment, the indices of the rows that belong to it.

    `intervals` is `(n, 2)`, sorted by start (see `sort_order`); `segments` is `(k, 2)` in any
    order. A row belongs when its part inside the segment is longer than `EPSILON`; that it
    starts before the segment's end and ends after the segment's start follows from it.
    """
    starts, ends = intervals[:, 0], intervals[:, 1]
    # Ends need not be sorted. Before the first row at which the furthest end so far passes a
    # segment's start, no row reaches into that segment.
    furthest_end = np.maximum.accumulate(ends)
    firsts = np.searchsorted(furthest_end, segments[:, 0], side="right")
    lasts = np.searchsorted(starts, segments[:, 1], side="left")
    rows = []
    for (start, end), first, last in zip(segments, firsts, lasts, strict=True):
        inside = np.minimum(ends[first:last], end) - np.maximum(starts[first:last], start)
        rows.append(first + np.flatnonzero(inside > EPSILON))
    return rows


def last_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """Keep the last `length` rows of a segment."""
    return rows[-length:]


def pad_in_front(features: np.ndarray, length: int) -> np.ndarray:
    """Put zeros in front of `features` `(t, width)` to make them `(length, width)` float32."""
    padded = np.zeros((length, features.shape[1]), dtype=np.float32)
    if len(features):
        padded[-len(features) :] = features
    return padded
