"""What is wrong with a prepared dataset: its parts compared with each other, a line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from data.checking.summary import SplitSummary
from data.labels import Scale
from data.layout import (
    BATCH_FILES,
    HUGE,
    HUGE_ADVICE,
    PIECES_FILE,
    SEGMENTS_FILE,
    TEXT_LENGTH,
    number_in,
    read_ids,
)
from data.manifest import MANIFEST, has_rows
from data.npy import NpyReader

_MOST_PIECES, _MOST_VOCABULARY = 2**16, 10_000_000  # of a text, of a BERT: far more than any has
_AXES = {1: "rows a segment", 2: "features a row"}
# What is the same in all splits, and where the manifest may tell it.
_SAME_SIZES = {
    ("visual", 1): ("made_from", "lengths", "visual"),
    ("visual", 2): (),
    ("audio", 1): ("made_from", "lengths", "audio"),
    ("audio", 2): (),
    ("text", 1): ("text", "length"),
    ("text", 2): ("text", "width"),
    ("label", 2): (),
}
Manifest = Mapping[str, Any]  # empty where there is none


@dataclass(frozen=True)
class OpenSplit:
    """What of a split can be read."""

    folder: Path
    arrays: dict[str, NpyReader]  # by kind
    pieces: NpyReader | None
    rows: list[dict[str, str]] | None  # of the segment table

    @property
    def name(self) -> str:
        """Its name: train, val or test."""
        return self.folder.name

    def path(self, kind: str) -> Path:
        """Return the file of a kind of arrays."""
        return self.folder / BATCH_FILES[kind]

    def labels(self) -> np.ndarray:
        """Return the labels as stored, `(N, 1, 7)`; none when they cannot be read."""
        array = self.arrays.get("label")
        return np.empty((0, 1, 1)) if array is None else array.read(range(len(array)))

    def sentiments(self) -> np.ndarray:
        """Return the labels' first values, `(N,)` float32; none when there are no labels."""
        return self.labels()[:, 0, 0].astype(np.float32)

    def column(self, name: str) -> np.ndarray:
        """Return a column of the table as float64; NaN where there is no number."""
        return np.array([number_in(row[name]) for row in self.rows or []], dtype=np.float64)


def count_problems(folder: Path, manifest: Manifest, splits: list[OpenSplit]) -> Iterator[str]:
    """Compare the numbers of segments and videos in each split."""
    for split in splits:
        segments, videos = (
            {MANIFEST: _look_up(manifest, "splits", split.name, what)}
            for what in ("segments", "videos")
        )
        for kind, array in split.arrays.items():
            segments[f"{split.name}/{BATCH_FILES[kind]}"] = len(array)
        if split.pieces is not None:
            segments[f"{split.name}/{PIECES_FILE}"] = len(split.pieces)
        if split.rows is not None:
            table = f"{split.name}/{SEGMENTS_FILE}"
            segments[table] = len(split.rows)
            videos[table] = len({row["video"] for row in split.rows})
        yield from _disagreements(folder, f"segments in {split.name}", segments)
        yield from _disagreements(folder, f"videos in {split.name}", videos)
        if split.arrays and not any(map(len, split.arrays.values())):
            yield f"{split.folder}: no segments, expected at least one."


def shape_problems(folder: Path, manifest: Manifest, splits: list[OpenSplit]) -> Iterator[str]:
    """Compare rows and features of the same kind across the splits and with the manifest."""
    # Text that came in word pieces keeps their length; the vocabulary is not known then.
    came_in_pieces = (manifest.get("text") or {}).get("vocabulary") is None
    from_pieces = came_in_pieces and any(split.pieces is not None for split in splits)
    for (kind, axis), keys in _SAME_SIZES.items():
        is_told = not (from_pieces and (kind, axis) == ("text", 1))
        sizes = {MANIFEST: _look_up(manifest, *keys) if is_told else None}
        for split in splits:
            if kind in split.arrays:
                sizes[f"{split.name}/{BATCH_FILES[kind]}"] = split.arrays[kind].shape[axis]
        yield from _disagreements(folder, f"{kind} {_AXES[axis]}", sizes)


def value_problems(split: OpenSplit, summary: SplitSummary, scale: Scale) -> Iterator[str]:
    """Look for what arrays must not hold; audio and visual may hold -inf and NaN."""
    for kind in ("audio", "visual"):
        array = summary.arrays.get(kind)
        if array is not None and (found := max(-array.minimum, array.maximum)) > HUGE:
            yield f"{array.file}: values up to {found:.4g}, expected below {HUGE:g}; {HUGE_ADVICE}"
    for kind in ("text", "label"):
        array = summary.arrays.get(kind)
        if array is None or (kind == "label" and array.is_unlabelled):
            continue
        if array.first_not_finite is not None:
            yield (
                f"{array.file}: {array.nan} NaN and {array.infinite} infinite values, the first "
                f"in segment {array.first_not_finite}; expected numbers only."
            )
    if "label" not in split.arrays:
        return
    labels = split.labels()
    if labels.shape[1] != 1:
        yield f"{split.path('label')}: {labels.shape[1]} label rows a segment, expected 1."
    outside = np.argwhere(scale.outside(labels))
    if len(outside):
        yield (
            f"{split.path('label')}: {_counted(len(outside), 'label')} outside "
            f"[-{scale.limit}, {scale.limit}], the first {labels[tuple(outside[0])]:g} in segment "
            f"{outside[0][0]}; expected none."
        )


def piece_problems(split: OpenSplit) -> Iterator[str]:
    """Look for ids, masks and places of words that no text encoder takes."""
    if split.pieces is None or not len(split.pieces):
        return  # how many there are is a line of its own
    path, (rows, length) = split.folder / PIECES_FILE, split.pieces.shape[1:]
    if rows not in (2, 3) or length > _MOST_PIECES:
        yield f"{path}: {rows} rows of {length}, expected 2, or 3 by word, of a text's word pieces."
        return
    limits = {"id": _MOST_VOCABULARY, "mask": 1, "place of a word": TEXT_LENGTH}
    for (what, most), low, high in zip(limits.items(), *split.pieces.ranges(), strict=False):
        if low < 0 or high > most:
            found = low if low < 0 else high
            yield f"{path}: a {what} that is {found}, expected 0 to {most:,}."


def table_problems(split: OpenSplit, scale: Scale, manifest: Manifest) -> Iterator[str]:
    """Check the segment table, by itself and against the labels and the manifest."""
    path = split.folder / SEGMENTS_FILE
    if split.rows is None:
        if manifest and not path.exists():
            yield f"No file {path}, expected one row a segment in it."
        return
    if not has_rows(manifest, split.name, read_ids(split.folder)[1]):
        yield f"{path}: other rows, or in another order, than {MANIFEST} vouches for."
    times = Counter(row["id"] for row in split.rows)
    repeated = [segment for segment, count in times.items() if count > 1]
    if repeated:
        found = _counted(len(repeated), "id")
        yield f"{path}: {found} more than once, the first {repeated[0]}; expected each once."
    labels = split.sentiments()
    if len(labels) != len(split.rows):
        return  # that is a line of its own
    listed = split.column("sentiment").astype(np.float32)
    # A label that is no sentiment has its line already.
    wrong = np.flatnonzero((listed != labels) & (np.abs(labels) <= scale.limit))
    if len(wrong):
        row = split.rows[wrong[0]]
        yield (
            f"{path}: {_counted(len(wrong), 'sentiment')} other than in {BATCH_FILES['label']}, "
            f"the first {row['sentiment'] or 'none'} of {row['id']} (segment {wrong[0]}); expected "
            f"{labels[wrong[0]]}."
        )


def overlap_problems(splits: list[OpenSplit]) -> Iterator[str]:
    """No id, and no video, may be in two splits: a score would count what was trained on."""
    for one, other in combinations([split for split in splits if split.rows], 2):
        for column in ("id", "video"):
            ours, theirs = ({row[column] for row in split.rows or []} for split in (one, other))
            both = ours & theirs
            if both:
                yield (
                    f"{other.folder / SEGMENTS_FILE}: {_counted(len(both), column)} that "
                    f"{one.name} has as well, the first {min(both, key=str)}; expected none."
                )


def _disagreements(folder: Path, what: str, sizes: dict[str, int | None]) -> Iterator[str]:
    """Name each file whose size is not that of most; where it is even, the first is right."""
    known = {name: size for name, size in sizes.items() if size is not None}
    if not known:
        return
    expected = Counter(known.values()).most_common(1)[0][0]
    agreeing = ", ".join(name for name, size in known.items() if size == expected)
    for name, size in known.items():
        if size != expected:
            yield f"{folder / name}: {size} {what}, expected {expected} as in {agreeing}."


def _look_up(manifest: Manifest, *keys: str) -> int | None:
    """Return a whole number of the manifest, None where it tells none."""
    value: Any = manifest
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
