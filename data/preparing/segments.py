"""From open computational sequences to labelled segments, video by video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

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
from system.forked import map_forked
from system.progress import progress

MODALITIES = ("words", "visual", "audio")
Lengths = dict[str, int]  # how many rows a segment keeps, of visual and audio
ALIGNED_LENGTHS: Lengths = {"visual": 50, "audio": 50}


@dataclass(frozen=True)
class VideoSegments:
    """The k labelled segments of one video, aligned, in the order of the labels file."""

    video: str
    split: str
    rows: np.ndarray  # (k,) in the labels file
    intervals: np.ndarray  # (k, 2) seconds
    words: list[list[str]]
    visual: np.ndarray  # (k, visual length, width) float32
    audio: np.ndarray  # (k, audio length, width) float32
    label: np.ndarray  # (k, 1, 1 or 7) float32, sentiment first

    @property
    def ids(self) -> list[str]:
        """What each segment is called: its video, and its row in the labels file."""
        return [f"{self.video}[{row}]" for row in self.rows]


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

    @property
    def videos(self) -> Set[str]:
        """The videos that have labels."""
        return self._by_kind["labels"].videos

    def segments(
        self, split_of: dict[str, str], alignment: str, lengths: Lengths, left_out: Counter[str]
    ) -> Iterator[VideoSegments]:
        """Yield the segments of each video that has any, by video id (bytewise).

        `split_of` names each video's split. What does not come out is counted in `left_out`,
        by reason, in rows of the labels file.
        """
        videos = sorted(self.videos, key=str.encode)

        def cut(video: str) -> tuple[VideoSegments | None, Counter[str], set[str]]:
            own_left_out, errors = Counter[str](), set[str]()
            noted = np.errstate(over="call", call=lambda kind, _: errors.add(kind))
            with noted, np.errstate(invalid="ignore"):  # infinity less infinity is NaN
                found = self._cut(video, split_of.get(video), alignment, lengths, own_left_out)
            return found, own_left_out, errors

        bar = progress(videos, desc=f"Aligning ({alignment})", unit="video")
        for _, (found, own_left_out, errors) in zip(bar, map_forked(cut, videos), strict=True):
            left_out.update(own_left_out)
            tell = np.geterrcall()  # of whoever called this, perhaps in another process
            if errors and callable(tell):
                tell(errors.pop(), 0)
            if found is not None:
                yield found

    def _cut(
        self,
        video: str,
        split: str | None,
        alignment: str,
        lengths: Lengths,
        left_out: Counter[str],
    ) -> VideoSegments | None:
        """Cut one video into its segments; None where there are none."""
        intervals, labels = self._by_kind["labels"].read_unsorted(video)
        missing = [kind for kind in MODALITIES if video not in self._by_kind[kind].videos]
        if split is None or missing:
            reason = f"video has no {missing[0]}" if split else "video in no fold"
            left_out[reason] += len(intervals)
            return None
        numbers = np.flatnonzero(is_long_enough(intervals))
        left_out["label interval is empty"] += len(intervals) - len(numbers)
        rows = {kind: self._by_kind[kind].read(video) for kind in MODALITIES}
        aligned = _ALIGN[alignment](rows, intervals[numbers], lengths, left_out)
        present, words, visual, audio = aligned
        if not present:
            return None
        own = numbers[present]
        label = labels[own, None].astype(np.float32)
        return VideoSegments(video, split, own, intervals[own], words, visual, audio, label)


Rows = dict[str, VideoRows]  # of a video, by modality
# Of its segments `(k, 2)`, which are not left out, and of these words, visual and audio.
_Aligned = tuple[list[int], list[list[str]], np.ndarray, np.ndarray]


def _by_segment(
    rows: Rows, segments: np.ndarray, lengths: Lengths, left_out: Counter[str]
) -> _Aligned:
    """Give each segment its own last rows of audio and visual, and all its words."""
    members = _members(rows, segments)
    present = _with_rows(members, left_out)

    def last_rows(kind: str) -> np.ndarray:
        groups = [members[kind][index][-lengths[kind] :] for index in present]
        features = rows[kind].features(_one_after_another(groups))
        return pad_in_front(features, list(map(len, groups)), lengths[kind])

    words = _words(rows["words"], [members["words"][index] for index in present])
    return present, words, last_rows("visual"), last_rows("audio")


def _by_word(
    rows: Rows, segments: np.ndarray, lengths: Lengths, left_out: Counter[str]
) -> _Aligned:
    """Give each segment its last words, and the mean of the rows inside each word.

    As in `_by_segment`, a segment counts only if each modality has a row of its own in it.
    """
    words = rows["words"]
    timed = np.flatnonzero(is_long_enough(words.intervals))
    intervals = words.intervals[timed]
    members = {**_members(rows, segments), "words": rows_of_segments(intervals, segments)}
    present = _with_rows(members, left_out)
    own_words = [members["words"][index] for index in present]

    def last_means(kind: str) -> np.ndarray:
        groups = [own[-lengths[kind] :] for own in own_words]
        averages = _word_means(rows[kind], intervals)[_one_after_another(groups)]
        return pad_in_front(averages, list(map(len, groups)), lengths[kind])

    spoken = _words(words, [timed[own] for own in own_words])
    # The text keeps one word a row: a space inside a word would make two of it.
    spoken = [[word.replace(" ", "_") for word in texts] for texts in spoken]
    return present, spoken, last_means("visual"), last_means("audio")


def _members(rows: Rows, segments: np.ndarray) -> dict[str, SegmentRows]:
    """Find each segment's rows in each modality."""
    return {kind: rows_of_segments(own.intervals, segments) for kind, own in rows.items()}


def _word_means(rows: VideoRows, intervals: np.ndarray) -> np.ndarray:
    """Average the rows inside each of the words `(k, 2)`, `(k, width)`; reads no others."""
    members = rows_of_segments(rows.intervals, intervals)
    is_used = np.zeros(len(rows.intervals), bool)
    is_used[members.rows] = True
    places = np.cumsum(is_used) - 1
    features = rows.features(np.flatnonzero(is_used))
    return means(features, SegmentRows(places[members.rows], members.offsets))


def _words(rows: VideoRows, groups: list[np.ndarray]) -> list[list[str]]:
    """Read the words of all groups at once, which is faster; returns each group's."""
    words = iter(rows.words(_one_after_another(groups)))
    return [list(islice(words, len(group))) for group in groups]


def _one_after_another(groups: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(groups) if groups else np.empty(0, np.int64)


def _with_rows(members: dict[str, SegmentRows], left_out: Counter[str]) -> list[int]:
    """Return the segments that have a row in every modality; count the others by reason."""
    has_rows = np.stack([rows.counts for rows in members.values()]) > 0
    is_present = has_rows.all(axis=0)
    for index in np.flatnonzero(~is_present):
        first_missing = list(members)[int(np.argmin(has_rows[:, index]))]
        left_out[f"segment has no {first_missing}"] += 1
    present: list[int] = np.flatnonzero(is_present).tolist()
    return present


_ALIGN = dict(zip(ALIGNMENT_NAMES, (_by_segment, _by_word, _by_segment), strict=True))
