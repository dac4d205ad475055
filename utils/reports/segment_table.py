"""The segments of a split as people know them: when they are spoken, and what is said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.layout import iterate_segments, number_in
from data.loading.split import Split


class SegmentTable:
    """The lengths of all segments of a split, and the times and sentences of the `chosen` rows.

    A split without a table has none of them: lengths are NaN, times and sentences empty. Raises
    InputError when the table is damaged.
    """

    def __init__(self, split: Split, chosen: Sequence[int]) -> None:
        wanted = set(chosen)
        self.seconds = np.full(len(split), np.nan)
        self._spoken = dict.fromkeys(wanted, ("", ""))
        for number, row in zip(range(len(split)), iterate_segments(split.folder), strict=False):
            start, end = number_in(row["start"]), number_in(row["end"])
            self.seconds[number] = end - start
            if number in wanted:
                times = f"{start:.2f} to {end:.2f} s" if end > start else ""
                self._spoken[number] = (times, row["sentence"] or "")

    def spoken(self, row: int) -> tuple[str, str]:
        """Return the times and the sentence of one of the chosen rows."""
        return self._spoken[row]
