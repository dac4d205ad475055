"""Warnings about what a source wrote: the files are good, but perhaps not the data."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Set
from itertools import combinations
from pathlib import Path

from data.layout import DOUBTFUL_SHARE
from data.preparing.split_writer import SplitWriter


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
