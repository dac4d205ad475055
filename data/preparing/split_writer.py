"""Writing a split as its segments come, and warnings about what was written."""

from __future__ import annotations

import csv
import math
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from data.layout import BATCH_FILES, DOUBTFUL_SHARE, SEGMENT_COLUMNS, SEGMENTS_FILE
from data.npy import NpyWriter


class SplitWriter:
    """Writes a split's arrays and segment table as they come. Use it as a context manager.

    `shapes` are those of one segment, by the names of `BATCH_FILES`. What is written is not on the
    disk before somebody flushes it, names included.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self._arrays = {
            kind: self._stack.enter_context(NpyWriter(folder / BATCH_FILES[kind], shape))
            for kind, shape in shapes.items()
        }
        file = (folder / SEGMENTS_FILE).open("w", encoding="utf-8", errors="replace", newline="")
        self._table = csv.writer(self._stack.enter_context(file))
        self._table.writerow(SEGMENT_COLUMNS)
        self.ids: list[str] = []
        self.videos: set[str] = set()
        self.all_zero: Counter[str] = Counter()  # segments, by kind of features
        self.digest = 0  # of all features

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def kinds(self) -> list[str]:
        """Names of the arrays."""
        return list(self._arrays)

    @property
    def counts(self) -> dict[str, int]:
        """How much is written."""
        return {"segments": len(self.ids), "videos": len(self.videos)}

    def write(self, arrays: dict[str, np.ndarray], rows: Iterable[Sequence[Any]]) -> None:
        """Append n segments: arrays `(n, *shape)`, and table rows without the sentiment.

        The sentiment of a row is its label's first value; it is left empty where there is none.
        """
        for kind, writer in self._arrays.items():
            rows_written = writer.append(arrays[kind])
            if kind != "label":
                self.all_zero[kind] += int(np.count_nonzero(~rows_written.any(axis=(1, 2))))
                self.digest = zlib.crc32(rows_written.data, self.digest)
        sentiments = arrays["label"][:, 0, 0].tolist()
        for row, sentiment in zip(rows, sentiments, strict=True):
            self._table.writerow([*row, "" if math.isnan(sentiment) else sentiment])
            self.ids.append(row[0])
            self.videos.add(row[1])


def warn_of_doubts(writers: Mapping[str, SplitWriter]) -> None:
    """Warn, a line each, of features that are all zero, repeated ids, and videos in two splits."""
    for split, writer in writers.items():
        segments = writer.counts["segments"]
        for kind, zeros in writer.all_zero.items():
            if zeros > DOUBTFUL_SHARE * segments:
                _warn(
                    f"{split}: all {kind} features are zero in {zeros:,} of {segments:,} segments"
                )
        segment, count = Counter(writer.ids).most_common(1)[0] if writer.ids else ("", 0)
        if count > 1:
            repeated = segments - len(set(writer.ids))
            _warn(f"{split}: {repeated:,} ids are repeated, as {segment!r}, there {count} times")
    for (one, first), (other, second) in combinations(writers.items(), 2):
        videos = first.videos & second.videos
        if videos:
            _warn(
                f"{len(videos):,} videos are in both {one} and {other}, as {min(videos)!r}: scores "
                "would count what was trained on"
            )
        elif first.digest == second.digest:
            _warn(f"{one} and {other} hold the same features: their scores would be the same")


def warn_of_unknown(folds: Path, videos: Set[str], count: int) -> None:
    """Warn of those of the `count` videos of somebody's folds that the data do not have."""
    if videos:
        _warn(
            f"{folds}: {len(videos):,} of its {count:,} videos have no labels, as {min(videos)!r}: "
            "they are in no split"
        )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
