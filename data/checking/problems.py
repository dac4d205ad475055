"""Problems of a prepared dataset, one line each, found by comparing its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from data.checking.problem import Problem, Remedy
from data.checking.summary import SplitSummary, useless_features
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
from data.manifest import MANIFEST, has_rows, has_text_of_bert
from data.npy import NpyReader

_MAX_PIECES, _MAX_PIECE_ID = 2**16, 10_000_000  # per text, and per vocabulary: beyond any real one
_AXES = {1: "rows a segment", 2: "features a row"}
# Array axes that are the same in all splits, and the keys of their size in the manifest.
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
    """The parts of a split that can be read."""

    folder: Path
    arrays: dict[str, NpyReader]  # by kind
    pieces: NpyReader | None
    rows: list[dict[str, str]] | None  # of the segment table

    @property
    def name(self) -> str:
        """The split's name: train, val or test."""
        return self.folder.name

    def path(self, kind: str) -> Path:
        """Return the path of an array, by its kind."""
        return self.folder / BATCH_FILES[kind]

    def labels(self) -> np.ndarray:
        """Return the labels as stored, `(N, 1, 7)`; N is 0 when they cannot be read."""
        array = self.arrays.get("label")
        return np.empty((0, 1, 1)) if array is None else array.read(range(len(array)))

    def sentiments(self) -> np.ndarray:
        """Return the first value of each label, `(N,)` float32; N is 0 without labels."""
        return _as_float32(self.labels()[:, 0, 0])

    def column(self, name: str) -> np.ndarray:
        """Return a column of the table as float64; NaN where there is no number."""
        return np.array([number_in(row[name]) for row in self.rows or []], dtype=np.float64)

    def seconds(self) -> np.ndarray:
        """Return the length of each segment in the table as float64; NaN where it is unknown."""
        with np.errstate(invalid="ignore", over="ignore"):  # a stranger's table may have any times
            seconds: np.ndarray = self.column("end") - self.column("start")
        return seconds


def find_problems(
    folder: Path,
    manifest: Manifest,
    splits: list[OpenSplit],
    summaries: Mapping[str, SplitSummary],
    scale: Scale,
) -> Iterator[Problem]:
    """Compare the parts of a dataset with each other; `summaries` are by split."""
    yield from _count_problems(folder, manifest, splits)
    yield from _shape_problems(folder, manifest, splits)
    unknown = (manifest.get("text") or {}).get("unknown_pieces", {})
    for split in splits:
        summary, sentences = summaries[split.name], [row["sentence"] for row in split.rows or []]
        yield from _value_problems(split, summary, scale, manifest)
        yield from _piece_problems(split)
        yield from useless_features(summary, sentences, unknown.get(split.name, 0))
        yield from _table_problems(split, scale, manifest)
    yield from _overlap_problems(splits)


def _count_problems(folder: Path, manifest: Manifest, splits: list[OpenSplit]) -> Iterator[Problem]:
    """Compare the numbers of segments and videos in each split."""
    for split in splits:
        segments, videos = (
            {MANIFEST: _look_up(manifest, "splits", split.name, unit)}
            for unit in ("segments", "videos")
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
            yield Problem(split.folder, f"{split.folder}: no segments, expected at least one.")


def _shape_problems(folder: Path, manifest: Manifest, splits: list[OpenSplit]) -> Iterator[Problem]:
    """Compare rows and features of the same kind across the splits and with the manifest."""
    # Text that a pickle brought as word pieces keeps their length; no vocabulary is noted then.
    has_no_vocabulary = (manifest.get("text") or {}).get("vocabulary") is None
    keeps_length = has_no_vocabulary and any(split.pieces is not None for split in splits)
    for (kind, axis), keys in _SAME_SIZES.items():
        is_in_manifest = not (keeps_length and (kind, axis) == ("text", 1))
        sizes = {MANIFEST: _look_up(manifest, *keys) if is_in_manifest else None}
        for split in splits:
            if kind in split.arrays:
                sizes[f"{split.name}/{BATCH_FILES[kind]}"] = split.arrays[kind].shape[axis]
        yield from _disagreements(folder, f"{kind} {_AXES[axis]}", sizes)


def _value_problems(
    split: OpenSplit, summary: SplitSummary, scale: Scale, manifest: Manifest
) -> Iterator[Problem]:
    """Find values that arrays must not hold; audio and visual may hold -inf and NaN."""
    for kind in ("audio", "visual"):
        array = summary.arrays.get(kind)
        if array is not None and (size := max(-array.minimum, array.maximum)) > HUGE:
            line = f"{array.file}: values up to {size:.4g}, expected below {HUGE:g}; {HUGE_ADVICE}"
            yield Problem(array.file, line, Remedy.NONE)
    for kind in ("text", "label"):
        array = summary.arrays.get(kind)
        if array is None or (kind == "label" and array.is_unlabelled):
            continue
        if array.first_not_finite is not None:
            is_own = kind == "text" and manifest.get("text") and not has_text_of_bert(manifest)
            yield Problem(
                array.file,
                f"{array.file}: {array.nan:,} NaN and {array.infinite:,} infinite values, the "
                f"first in segment {array.first_not_finite}; expected numbers only.",
                Remedy.NONE if is_own else Remedy.FORCE,
            )
    if "label" not in split.arrays:
        return
    labels, path = split.labels(), split.path("label")
    if labels.shape[1] != 1:
        yield Problem(path, f"{path}: {labels.shape[1]} label rows a segment, expected 1.")
    outside = np.argwhere(scale.outside(labels))
    if len(outside):
        yield Problem(
            path,
            f"{path}: {_counted(len(outside), 'label')} outside [-{scale.limit}, {scale.limit}], "
            f"the first {labels[tuple(outside[0])]:g} in segment {outside[0][0]}; expected none.",
        )


def _piece_problems(split: OpenSplit) -> Iterator[Problem]:
    """Find ids, mask values and word positions that no text encoder accepts."""
    if split.pieces is None or not len(split.pieces):
        return  # their number is checked elsewhere
    path, (rows, length) = split.folder / PIECES_FILE, split.pieces.shape[1:]
    if rows not in (2, 3) or length > _MAX_PIECES:
        found = f"{rows} rows of {length} word pieces a text"
        line = f"{path}: {found}, expected 2 (3 by word) of at most {_MAX_PIECES:,}."
        yield Problem(path, line)
        return
    limits = {"id": _MAX_PIECE_ID, "mask value": 1, "word position": TEXT_LENGTH}
    for (name, limit), low, high in zip(limits.items(), *split.pieces.ranges(), strict=False):
        if low < 0 or high > limit:
            found = f"{name} {low if low < 0 else high}"
            yield Problem(path, f"{path}: {found}, expected 0 to {limit:,}.")


def _table_problems(split: OpenSplit, scale: Scale, manifest: Manifest) -> Iterator[Problem]:
    """Check the segment table, by itself and against the labels and the manifest."""
    path = split.folder / SEGMENTS_FILE
    if split.rows is None:
        if manifest and not path.exists():
            yield Problem(path, f"No file {path}, expected one row a segment in it.")
        return
    if not has_rows(manifest, split.name, read_ids(split.folder)[1]):
        line = f"{path}: other rows, or in another order, than when {MANIFEST} was written."
        yield Problem(path, line, Remedy.PREPARE)
    id_counts = Counter(row["id"] for row in split.rows)
    repeated = [segment for segment, count in id_counts.items() if count > 1]
    if repeated:
        number = _counted(len(repeated), "id")
        line = f"{path}: {number} more than once, the first {repeated[0]}; expected each once."
        yield Problem(path, line, Remedy.NONE)
    reversed_rows = np.flatnonzero(split.seconds() < 0)
    if len(reversed_rows):
        row = split.rows[reversed_rows[0]]
        yield Problem(
            path,
            f"{path}: {_counted(len(reversed_rows), 'segment')} with an end before the start, the "
            f"first {row['id']} ({row['start']} to {row['end']} s); expected none.",
            Remedy.NONE,
        )
    labels = split.sentiments()
    if len(labels) != len(split.rows):
        return  # `_count_problems` reports it
    sentiments = _as_float32(split.column("sentiment"))
    # `_value_problems` reports labels outside the scale.
    wrong = np.flatnonzero((sentiments != labels) & (np.abs(labels) <= scale.limit))
    if len(wrong):
        row = split.rows[wrong[0]]
        yield Problem(
            path,
            f"{path}: {_counted(len(wrong), 'sentiment')} other than in {BATCH_FILES['label']}, "
            f"the first {row['sentiment'] or 'none'} of {row['id']} (segment {wrong[0]}); expected "
            f"{labels[wrong[0]]}.",
        )


def _overlap_problems(splits: list[OpenSplit]) -> Iterator[Problem]:
    """Find ids and videos in two splits: scores would be on data that was trained on."""
    for first, second in combinations([split for split in splits if split.rows], 2):
        for column in ("id", "video"):
            values = [{row[column] for row in split.rows or []} for split in (first, second)]
            shared = values[0] & values[1]
            if shared:
                path = second.folder / SEGMENTS_FILE
                yield Problem(
                    path,
                    f"{path}: {_counted(len(shared), column)} that {first.name} has as well, the "
                    f"first {min(shared, key=str)}; expected none.",
                    Remedy.NONE,
                )


def size_problems(changed: Mapping[Path, int], told: list[Problem]) -> Iterator[Problem]:
    """Tell the files in `changed`, with the sizes they were written with, unless `told`.

    A segment table may be of any size: `_table_problems` compares its rows.
    """
    told_files = {problem.file for problem in told}
    for path, size in changed.items():
        if not told_files.isdisjoint((path, path.parent)) or path.name == SEGMENTS_FILE:
            continue
        expected = f"expected {size:,} bytes as in {MANIFEST}"
        if path.is_file():
            yield Problem(path, f"{path}: {path.stat().st_size:,} bytes, {expected}.")
        else:
            yield Problem(path, f"No file {path}, {expected}.")


def _disagreements(folder: Path, unit: str, sizes: dict[str, int | None]) -> Iterator[Problem]:
    """Report files whose size is not the most frequent one (if tied, the first of these)."""
    known_sizes = {name: size for name, size in sizes.items() if size is not None}
    if not known_sizes:
        return
    expected = Counter(known_sizes.values()).most_common(1)[0][0]
    agreeing = ", ".join(name for name, size in known_sizes.items() if size == expected)
    for name, size in known_sizes.items():
        if size != expected:
            line = f"{folder / name}: {size} {unit}, expected {expected} as in {agreeing}."
            yield Problem(folder / name, line)


def _look_up(manifest: Manifest, *keys: str) -> int | None:
    """Return a whole number of the manifest, None where there is none."""
    value: Any = manifest
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None


def _as_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinite then; `_value_problems` reports it
        return values.astype(np.float32)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
