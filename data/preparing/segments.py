"""From open computational sequences to labelled segments, video by video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from data.formats.csd import ComputationalSequence, VideoRows
from data.preparing.alignment import (
    SegmentRows,
    is_long_enough,
    means,
    pad_in_front,
    rows_of_segments,
)
from system.errors import InputError
from system.forked import map_forked
from system.progress import progress

MODALITIES = ("words", "visual", "audio")
# Of one video; all of CMU-MOSEI has half as many segments, and 3 million characters.
_MAX_SEGMENTS, _MAX_CHARACTERS = 50_000, 100_000_000
Lengths = dict[str, int]  # how many rows a segment keeps, of visual and audio
ALIGNED_LENGTHS: Lengths = {"visual": 50, "audio": 50}


@dataclass(frozen=True)
class VideoSegments:
    """The k labelled segments of one video, aligned, in the order of the labels file."""

    video: str
    split: str
    ids: list[str]  # "video[row of the labels file]"
    intervals: np.ndarray  # (k, 2) seconds
    words: list[list[str]]
    visual: np.ndarray  # (k, visual length, width) float32
    audio: np.ndarray  # (k, audio length, width) float32
    label: np.ndarray  # (k, 1, 1 or 7) float32, sentiment first


Sequences = dict[str, ComputationalSequence]  # open, by kind: words, visual, audio and labels


@contextmanager
def open_sequences(paths: dict[str, Path]) -> Iterator[Sequences]:
    """Open the four .csd files of a dataset."""
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(ComputationalSequence(path, holds_text=kind == "words"))
            for kind, path in paths.items()
        }


def cut_videos(
    sequences: Sequences,
    split_of: dict[str, str],
    alignment: str,
    lengths: Lengths,
    left_out: Counter[str],
) -> Iterator[VideoSegments]:
    """Yield the segments of each video that has any, sorted by video id (bytewise).

    `split_of` names each video's split. Rows of the labels file that give no segment are
    counted in `left_out`, by reason.
    """
    videos = sorted(sequences["labels"].videos, key=str.encode)

    def cut(video: str) -> tuple[VideoSegments | None, Counter[str], set[str]]:
        counts, errors = Counter[str](), set[str]()
        overflow = np.errstate(over="call", call=lambda kind, _: errors.add(kind))
        with overflow, np.errstate(invalid="ignore"):  # infinity less infinity is NaN
            segments = _cut(sequences, video, split_of.get(video), alignment, lengths, counts)
        return segments, counts, errors

    bar = progress(videos, desc=f"Aligning ({alignment})", unit="video")
    for _, (segments, counts, errors) in zip(bar, map_forked(cut, videos), strict=True):
        left_out.update(counts)
        on_error = np.geterrcall()  # the caller's; `cut` may have run in another process
        if errors and callable(on_error):
            on_error(errors.pop(), 0)
        if segments is not None:
            yield segments


def _cut(
    sequences: Sequences,
    video: str,
    split: str | None,
    alignment: str,
    lengths: Lengths,
    left_out: Counter[str],
) -> VideoSegments | None:
    """Cut one video into its segments; None where there are none."""
    intervals, labels = sequences["labels"].read_unsorted(video)
    missing = [kind for kind in MODALITIES if video not in sequences[kind].videos]
    if split is None or missing:
        reason = f"video has no {missing[0]}" if split else "video is in no fold"
        left_out[reason] += len(intervals)
        return None
    label_rows = np.flatnonzero(is_long_enough(intervals))
    if len(label_rows) > _MAX_SEGMENTS:  # each takes its full length, however few its rows
        raise InputError(
            f"{sequences['labels'].path}, video {video}: {len(label_rows):,} segments, expected "
            f"at most {_MAX_SEGMENTS:,}; check the file, or divide the video."
        )
    left_out["label interval is empty"] += len(intervals) - len(label_rows)
    rows = {kind: sequences[kind].read(video) for kind in MODALITIES}
    align = _by_word if alignment == "word" else _by_segment
    present, words, visual, audio = align(rows, intervals[label_rows], lengths, left_out)
    if not present:
        return None
    label_rows = label_rows[present]
    ids = [f"{video}[{row}]" for row in label_rows]
    times, label = intervals[label_rows], labels[label_rows, None].astype(np.float32)
    return VideoSegments(video, split, ids, times, words, visual, audio, label)


Rows = dict[str, VideoRows]  # of a video, by modality
# The numbers of the segments that are not left out; their words, visual and audio.
_Aligned = tuple[list[int], list[list[str]], np.ndarray, np.ndarray]


def _by_segment(
    rows: Rows, segments: np.ndarray, lengths: Lengths, left_out: Counter[str]
) -> _Aligned:
    """Return each segment's last rows of audio and visual, and all its words."""
    members = _find_members(rows, segments)
    present = _complete_segments(members, left_out)
    groups = {kind: [members[kind][index] for index in present] for kind in MODALITIES}
    visual, audio = (
        _last(groups[kind], lengths[kind], rows[kind].features) for kind in ("visual", "audio")
    )
    return present, _words(rows["words"], groups["words"]), visual, audio


def _by_word(
    rows: Rows, segments: np.ndarray, lengths: Lengths, left_out: Counter[str]
) -> _Aligned:
    """Return each segment's last words, and the mean of the rows inside each word.

    As in `_by_segment`, a segment is left out unless each modality has a row in it.
    """
    words = rows["words"]
    timed = np.flatnonzero(is_long_enough(words.intervals))
    intervals = words.intervals[timed]
    members = _find_members(rows, segments)
    members["words"] = rows_of_segments(intervals, segments, words.where)
    present = _complete_segments(members, left_out)
    word_groups = [members["words"][index] for index in present]
    visual, audio = (
        _last(word_groups, lengths[kind], _word_means(rows[kind], intervals).__getitem__)
        for kind in ("visual", "audio")
    )
    texts = _words(words, [timed[group] for group in word_groups])
    # Text is later split at spaces, and each word has to stay one.
    texts = [[word.replace(" ", "_") for word in text] for text in texts]
    return present, texts, visual, audio


def _last(
    groups: list[np.ndarray], length: int, features_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the features of the last `length` rows of each group, with zeros in front."""
    groups = [group[-length:] for group in groups]
    features = features_of(_one_after_another(groups))
    return pad_in_front(features, list(map(len, groups)), length)


def _find_members(rows: Rows, segments: np.ndarray) -> dict[str, SegmentRows]:
    """Find each segment's rows in each modality."""
    return {kind: rows_of_segments(x.intervals, segments, x.where) for kind, x in rows.items()}


def _word_means(rows: VideoRows, intervals: np.ndarray) -> np.ndarray:
    """Average the rows inside each of the words `(k, 2)`, to `(k, width)`; reads no other rows."""
    members = rows_of_segments(rows.intervals, intervals, rows.where)
    is_used = np.zeros(len(rows.intervals), bool)
    is_used[members.rows] = True
    position = np.cumsum(is_used) - 1  # of a row among the used ones
    features = rows.features(np.flatnonzero(is_used))
    return means(features, SegmentRows(position[members.rows], members.offsets))


def _words(rows: VideoRows, groups: list[np.ndarray]) -> list[list[str]]:
    """Read the words of all groups at once, which is faster; returns them group by group."""
    words = rows.words(_one_after_another(groups))
    if (characters := sum(map(len, words))) > _MAX_CHARACTERS:
        raise InputError(
            f"{rows.where}: the words of its segments have {characters:,} characters, expected at "
            f"most {_MAX_CHARACTERS:,}; check the words, and the segments' times."
        )
    remaining = iter(words)
    return [list(islice(remaining, len(group))) for group in groups]


def _one_after_another(groups: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(groups) if groups else np.empty(0, np.int64)


def _complete_segments(members: dict[str, SegmentRows], left_out: Counter[str]) -> list[int]:
    """Return the segments that have a row in every modality; counts the others by reason."""
    has_rows = np.stack([rows.counts for rows in members.values()]) > 0
    is_present = has_rows.all(axis=0)
    for index in np.flatnonzero(~is_present):
        first_missing = list(members)[int(np.argmin(has_rows[:, index]))]
        left_out[f"segment has no {first_missing}"] += 1
    return list(map(int, np.flatnonzero(is_present)))
