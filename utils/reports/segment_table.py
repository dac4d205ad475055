"""The segments of a split as people know them: when they are spoken, and what is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from data.layout import iterate_segments, number_in
from data.loading.split import Split
from utils.reports.html import Table


class SegmentTable:
    """The lengths of all segments of a split, and the times and sentences of the `chosen` rows.

    A split without a table has none of them: lengths are NaN, times and sentences empty. Raises
    InputError when the table is damaged.
    """

    def __init__(self, split: Split, chosen: Sequence[int]) -> None:
        self._ids, self.seconds = split.ids, np.full(len(split), np.nan)
        self._spoken = dict.fromkeys(chosen, ("", ""))
        for number, row in zip(range(len(split)), iterate_segments(split.folder), strict=False):
            start, end = number_in(row["start"]), number_in(row["end"])
            self.seconds[number] = end - start
            if number in self._spoken:
                times = f"{start:.2f} to {end:.2f} s" if end > start else ""
                self._spoken[number] = (times, row["sentence"] or "")

    def table(self, columns: Sequence[tuple[str, Callable[[int], str]]]) -> Table:
        """Lay out the chosen rows, and in further columns what is to be said of each."""
        header = ["segment", "time", "sentence", *(name for name, _ in columns)]
        rows = [
            [self._ids[row], *spoken, *(text_of(row) for _, text_of in columns)]
            for row, spoken in self._spoken.items()
        ]
        return Table(header, rows)
