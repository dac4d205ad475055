"""From open computational sequences to labelled segments, video by video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from data.fetching.server import Dataset
from data.formats.csd import ComputationalSequence, VideoRows
from data.layout import ALIGNMENT_NAMES
from data.preparing.alignment import (
    SegmentRows,
    is_long_enough,
    means,
    pad_in_front,
    rows_of_segments,
)
from system.progress import progress

MODALITIES = ("words", "visual", "audio")


@dataclass(frozen=True)
class Segment:
    """One labelled segment, aligned."""

    id: str  # video[k], k its row in the labels file
    video: str
    split: str
    start: float  # seconds
    end: float
    words: list[str]
    visual: np.ndarray  # (visual length, width) float32
    audio: np.ndarray  # (audio length, width) float32
    label: np.ndarray  # (1, 1 or 7), sentiment first


@dataclass(frozen=True)
class Lengths:
    """How many rows a segment keeps of each modality."""

    visual: int = 50
    audio: int = 50


@dataclass
class _Video:
    """The rows of one video that its segments are cut from."""

    rows: dict[str, VideoRows]
    segments: np.ndarray  # (k, 2) seconds

    def members(self) -> dict[str, SegmentRows]:
        """Find each segment's rows in each modality."""
        return {
            kind: rows_of_segments(rows.intervals, self.segments)
            for kind, rows in self.rows.items()
        }


class Sequences:
    """The four .csd files of a dataset, open. Use it as a context manager."""

    def __init__(self, dataset: Dataset, paths: dict[str, Path]) -> None:
        with ExitStack() as stack:
            self._by_kind = {
                kind: stack.enter_context(
                    ComputationalSequence(paths[kind], holds_text=kind == "words")
                )
                for kind in dataset.sequences
            }
            self._stack = stack.pop_all()

    def __enter__(self) -> Sequences:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def width(self, kind: str) -> int:
        """Return how many features a row has, of words, visual, audio or labels."""
        return self._by_kind[kind].width

    def segments(
        self, split_of: dict[str, str], alignment: str, lengths: Lengths, left_out: Counter[str]
    ) -> Iterator[Segment]:
        """Yield the segments of all videos, by video id (bytewise), then by row of the labels.

        `split_of` names each video's split. What does not come out is counted in `left_out`,
        by reason, in rows of the labels file.
        """
        videos = sorted(self._by_kind["labels"].videos, key=str.encode)
        for video in progress(videos, desc=f"Aligning ({alignment})", unit="video"):
            yield from self._cut(video, split_of.get(video), alignment, lengths, left_out)

    def _cut(
        self,
        video: str,
        split: str | None,
        alignment: str,
        lengths: Lengths,
        left_out: Counter[str],
    ) -> Iterator[Segment]:
        """Cut one video into its segments."""
        intervals, labels = self._by_kind["labels"].read_unsorted(video)
        missing = [kind for kind in MODALITIES if video not in self._by_kind[kind].videos]
        if split is None or missing:
            reason = f"video has no {missing[0]}" if split else "video in no fold"
            left_out[reason] += len(intervals)
            return
        numbers = np.flatnonzero(is_long_enough(intervals))
        left_out["label interval is empty"] += len(intervals) - len(numbers)
        rows = {kind: self._by_kind[kind].read(video) for kind in MODALITIES}
        aligned = _ALIGN[alignment](_Video(rows, intervals[numbers]), lengths, left_out)
        for index, words, visual, audio in aligned:
            k = int(numbers[index])
            start, end = map(float, intervals[k])
            label = labels[k : k + 1].astype(np.float32)
            yield Segment(f"{video}[{k}]", video, split, start, end, words, visual, audio, label)


_Aligned = Iterator[tuple[int, list[str], np.ndarray, np.ndarray]]


def _by_segment(video: _Video, lengths: Lengths, left_out: Counter[str]) -> _Aligned:
    """Give each segment its own last rows of audio and visual, and all its words."""
    members = video.members()
    present = list(_with_rows(members, left_out))
    words = _shares(video.rows["words"].words, [members["words"][index] for index in present])
    visual, audio = (
        _shares(video.rows[kind].features, [members[kind][index][-length:] for index in present])
        for kind, length in (("visual", lengths.visual), ("audio", lengths.audio))
    )
    for index, spoken, seen, heard in zip(present, words, visual, audio, strict=True):
        yield (
            index,
            spoken,
            pad_in_front(seen, lengths.visual),
            pad_in_front(heard, lengths.audio),
        )


def _by_word(video: _Video, lengths: Lengths, left_out: Counter[str]) -> _Aligned:
    """Give each segment its last words, and the mean of the rows inside each word.

    As in `_by_segment`, a segment counts only if each modality has a row of its own in it.
    """
    words = video.rows["words"]
    timed = np.flatnonzero(is_long_enough(words.intervals))
    intervals = words.intervals[timed]
    members = {**video.members(), "words": rows_of_segments(intervals, video.segments)}
    present = list(_with_rows(members, left_out))
    rows = [members["words"][index] for index in present]
    spoken = _shares(words.words, [timed[own] for own in rows])
    averages = {kind: _word_means(video.rows[kind], intervals) for kind in ("visual", "audio")}
    for index, own, texts in zip(present, rows, spoken, strict=True):
        visual = pad_in_front(averages["visual"][own], lengths.visual)
        audio = pad_in_front(averages["audio"][own], lengths.audio)
        # The text keeps one word a row: a space inside a word would make two of it.
        yield index, [word.replace(" ", "_") for word in texts], visual, audio


def _word_means(rows: VideoRows, intervals: np.ndarray) -> np.ndarray:
    """Average the rows inside each of the words `(k, 2)`, `(k, width)`; reads no others."""
    members = rows_of_segments(rows.intervals, intervals)
    is_used = np.zeros(len(rows.intervals), bool)
    is_used[members.rows] = True
    places = np.cumsum(is_used) - 1
    features = rows.features(np.flatnonzero(is_used))
    return means(features, SegmentRows(places[members.rows], members.offsets))


_Values = TypeVar("_Values", np.ndarray, list[str])


def _shares(read: Callable[[np.ndarray], _Values], groups: list[np.ndarray]) -> list[_Values]:
    """Read the rows of all groups at once, which is faster; returns each group's values."""
    if not groups:
        return []
    values, end, shares = read(np.concatenate(groups)), 0, []
    for group in groups:
        shares.append(values[end : end + len(group)])
        end += len(group)
    return shares


def _with_rows(members: dict[str, SegmentRows], left_out: Counter[str]) -> Iterator[int]:
    """Yield the segments that have a row in every modality; count the others by reason."""
    counts = np.stack([rows.counts for rows in members.values()])
    for index, present in enumerate(counts.T > 0):
        if present.all():
            yield index
        else:
            first_missing = list(members)[int(np.argmin(present))]
            left_out[f"segment has no {first_missing}"] += 1


_Align = Callable[[_Video, Lengths, Counter[str]], _Aligned]
_ALIGN: dict[str, _Align] = dict(
    zip(ALIGNMENT_NAMES, (_by_segment, _by_word, _by_segment), strict=True)
)
