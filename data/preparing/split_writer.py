"""Writing a split segment by segment, and warning of what is doubtful in it."""

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
    """Writes a split's arrays and segment table step by step. Use it as a context manager.

    `shapes` are those of one segment, by the keys of `BATCH_FILES`. The caller has to flush the
    files and folders to the disk.
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
        self.without_values: Counter[str] = Counter()  # segments, by kind
        self.digest = 0  # CRC-32 of all features

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of segments and videos written so far."""
        return {"segments": len(self.ids), "videos": len(self.videos)}

    def write(self, arrays: dict[str, np.ndarray], rows: Iterable[Sequence[Any]]) -> None:
        """Append n segments: arrays `(n, *shape)`, and table rows without the sentiment.

        A row's sentiment is the first value of its label, or empty if that is NaN. Zero characters
        in its texts become U+FFFD: Python 3.10 refuses to read a table that has some.
        """
        for kind, writer in self._arrays.items():
            rows_written = writer.append(arrays[kind])
            if kind != "label":
                self.without_values[kind] += _count_without_values(rows_written)
                self.digest = zlib.crc32(rows_written.data, self.digest)
        sentiments = arrays["label"][:, 0, 0].tolist()
        for cells, sentiment in zip(rows, sentiments, strict=True):
            row = [x.replace("\0", "\ufffd") if isinstance(x, str) else x for x in cells]
            self._table.writerow([*row, "" if math.isnan(sentiment) else sentiment])
            self.ids.append(row[0])
            self.videos.add(row[1])


def _count_without_values(features: np.ndarray) -> int:
    """Count the segments `(n, length, width)` in which no value is finite and other than 0."""
    outer_rows = features[:, [0, -1]]  # most segments have values there: the rest is not read
    doubtful = np.flatnonzero(~_are_values(outer_rows).any(axis=(1, 2)))
    return sum(not _are_values(features[number]).any() for number in doubtful)


def _are_values(features: np.ndarray) -> np.ndarray:
    are_values: np.ndarray = np.isfinite(features) & (features != 0)
    return are_values


def warn_of_doubts(writers: Mapping[str, SplitWriter]) -> None:
    """Warn of segments without values, repeated ids, and videos or features in two splits."""
    for split, writer in writers.items():
        segments = writer.counts["segments"]
        for kind, count in writer.without_values.items():
            if count > DOUBTFUL_SHARE * segments:
                _warn(
                    f"{split}: all {kind} features are zero, NaN or infinite in {count:,} of "
                    f"{segments:,} segments"
                )
        segment, count = Counter(writer.ids).most_common(1)[0] if writer.ids else ("", 0)
        if count > 1:
            repeated = segments - len(set(writer.ids))
            _warn(f"{split}: {repeated:,} ids are repeated, such as {segment!r} ({count} times)")
    for (split, writer), (other_split, other) in combinations(writers.items(), 2):
        videos = writer.videos & other.videos
        if videos:
            _warn(
                f"{len(videos):,} videos are in both {split} and {other_split}, such as "
                f"{min(videos)!r}: scores would be on data that was trained on"
            )
        elif writer.digest == other.digest:
            _warn(f"{split} and {other_split} have the same features: their scores would be equal")


def warn_of_unknown(folds: Path, videos: Set[str], count: int) -> None:
    """Warn of the videos among the `count` in a folds file that are not in the data."""
    if videos:
        _warn(
            f"{folds}: {len(videos):,} of its {count:,} videos have no labels, such as "
            f"{min(videos)!r}: they are in no split"
        )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
