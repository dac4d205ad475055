"""Which rows belong to which segment. Pure NumPy, no files.

Times are seconds, float64; an interval is a row `[start, end]`. The rules are the CMU SDK's,
as the released script uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from system.errors import InputError

EPSILON = 1e-5  # seconds; overlaps and intervals shorter than this do not count
# Pairs of a row and a segment, in one video. CMU-MOSEI's longest have a hundred thousand; where
# all lie at the same time, there are as many as the product of both.
_ALWAYS_FITS, _MAX_SEGMENTS_PER_ROW = 20_000_000, 4
# A row with a wrong end is compared with all segments.
_COMPARED_AT_ONCE, _MAX_BLOCKS = 2_000_000, 100


@dataclass(frozen=True)
class SegmentRows:
    """The rows that belong to each of k segments, those of all segments in one array."""

    rows: np.ndarray  # (total,) row indices, rising within a segment
    offsets: np.ndarray  # (k + 1,) segment i has rows[offsets[i] : offsets[i + 1]]

    @property
    def counts(self) -> np.ndarray:
        """How many rows each segment has, `(k,)`."""
        return np.diff(self.offsets)

    def __getitem__(self, segment: int) -> np.ndarray:
        return self.rows[self.offsets[segment] : self.offsets[segment + 1]]


def is_long_enough(intervals: np.ndarray) -> np.ndarray:
    """Tell which intervals `(k, 2)` are not shorter than `EPSILON`, `(k,)` bool."""
    is_long: np.ndarray = intervals[:, 1] - intervals[:, 0] >= EPSILON
    return is_long


def rows_of_segments(
    intervals: np.ndarray, segments: np.ndarray, where: str = "a video"
) -> SegmentRows:
    """Find the rows that belong to each segment.

    `intervals` is `(n, 2)`, sorted by start (see `sort_order`); `segments` is `(k, 2)` in any
    order. A row belongs when its part inside the segment is longer than `EPSILON`; that it
    starts before the segment's end and ends after the segment's start follows from this.
    Raises InputError, which begins with `where`, if too many rows are in too many segments, or so
    many have to be compared.
    """
    starts, ends = intervals[:, 0], intervals[:, 1]
    # Ends need not be sorted. Before the first row at which the furthest end so far passes a
    # segment's start, no row reaches into that segment.
    furthest_end = np.maximum.accumulate(ends)
    first = np.searchsorted(furthest_end, segments[:, 0], side="right")
    last = np.searchsorted(starts, segments[:, 1], side="left")
    last = np.maximum(first, last)
    most = max(_ALWAYS_FITS, _MAX_SEGMENTS_PER_ROW * len(starts))
    rows: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    for block in _blocks(last - first):
        found, segment = _ranges(first[block], last[block])
        inside = np.minimum(ends[found], segments[block[segment], 1])
        inside -= np.maximum(starts[found], segments[block[segment], 0])
        belongs = inside > EPSILON
        rows.append(found[belongs])
        counts.append(np.bincount(segment[belongs], minlength=len(block)))
        limit = None
        if sum(map(len, rows)) > most:
            limit = f"{most:,} overlaps"
        elif len(rows) > _MAX_BLOCKS:
            limit = f"{_MAX_BLOCKS * _COMPARED_AT_ONCE:,} comparisons"
        if limit is not None:
            raise InputError(
                f"{where}: more than {limit} of its {len(starts):,} rows with {len(segments):,} "
                "segments or words, expected fewer; check the times of both."
            )
    return SegmentRows(np.concatenate(rows), np.cumsum(np.concatenate([[0], *counts])))


def _blocks(comparisons: np.ndarray) -> list[np.ndarray]:
    """Divide segments with so many comparisons each into blocks that fit into memory."""
    total = np.cumsum(comparisons)
    edges = np.arange(_COMPARED_AT_ONCE, total[-1:].sum(), _COMPARED_AT_ONCE)  # usually none
    return np.split(np.arange(len(comparisons)), np.searchsorted(total, edges))


def _ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the ranges `first[i] .. last[i]`; also return the range i of each number."""
    lengths = last - first
    source = np.repeat(np.arange(len(first)), lengths)
    begins = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - begins[source] + first[source], source


def means(features: np.ndarray, members: SegmentRows) -> np.ndarray:
    """Average the rows of each segment, `(n, width)` to `(k, width)`; zeros where it has none.

    The result is float32; sums run in the features' own precision, or in float32 of coarser ones.
    """
    result = np.zeros((len(members.counts), features.shape[1]), dtype=np.float32)
    filled = np.flatnonzero(members.counts)
    if len(filled):
        member_features, begins = features[members.rows], members.offsets[filled]
        sums = np.add.reduceat(member_features, begins, dtype=np.result_type(features, np.float32))
        result[filled] = sums / members.counts[filled, None]
    return result


def pad_in_front(features: np.ndarray, counts: Sequence[int], length: int) -> np.ndarray:
    """Pad each of k groups of rows with zeros in front, `(k, length, width)` float32.

    `features` `(total, width)` has the rows of one group after another; `counts` are their
    numbers of rows, at most `length` each.
    """
    padded = np.zeros((len(counts), length, features.shape[1]), dtype=np.float32)
    end = 0
    for group, count in zip(padded, counts, strict=True):
        group[length - count :] = features[end : end + count]
        end += count
    return padded
