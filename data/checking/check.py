"""Whether a prepared dataset is whole, and what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from data.checking.summary import ArraySummary, SplitSummary
from data.checking.useless import useless_features
from data.labels import SCALES, Scale, scores_of
from data.layout import (
    BATCH_FILES,
    PIECES_FILE,
    SEGMENTS_FILE,
    SPLITS,
    STAGE,
    TEXT_FILE,
    TEXT_LENGTH,
    number_in,
    preparation_command,
    read_ids,
    read_segments,
)
from data.manifest import MANIFEST, has_rows, read_manifest, splits_of
from data.npy import NpyReader
from system.errors import InputError
from system.progress import progress

Value = TypeVar("Value")

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


@dataclass(frozen=True)
class Report:
    """What was found in a dataset's folder; without `problems` all is well."""

    folder: Path
    splits: dict[str, SplitSummary]  # those that are there
    problems: list[str]  # one line each
    notes: list[str]
    scale: Scale  # of the labels
    is_interrupted: bool  # a preparation was started and not finished


@dataclass(frozen=True)
class _Split:
    """What of a split can be read."""

    name: str
    folder: Path
    arrays: dict[str, NpyReader]  # by kind
    pieces: NpyReader | None
    rows: list[dict[str, str]] | None  # of the segment table

    def path(self, kind: str) -> Path:
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


def check_dataset(folder: Path) -> Report:
    """Read all of a prepared dataset and compare its parts with each other.

    `folder` holds train, val and test, and `dataset.json` where dataset_prep.py made it. What
    is wrong with a file becomes a line of the report's `problems`, and the rest is still
    checked. Arrays are read in blocks of a few MB. Raises InputError when there is no such
    folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"No folder {folder}; prepare the dataset first ({preparation_command(folder)})."
        )
    problems: list[str] = []
    manifest = _attempt(read_manifest, folder, problems)
    text_is_made = manifest is not None and manifest.get("text") is not None
    wanted = SPLITS if manifest is None else splits_of(manifest) or SPLITS
    splits = [
        _open_split(folder / name, text_is_made, problems)
        for name in SPLITS
        if (name in wanted or (folder / name).is_dir()) and _is_there(folder / name, problems)
    ]
    total = sum(array.nbytes for split in splits for array in split.arrays.values())
    with progress(total=total, desc="Checking", unit="B", unit_scale=True) as bar:
        summaries = {split.name: _summary(split, bar) for split in splits}
    problems += _count_problems(folder, manifest, splits)
    problems += _shape_problems(folder, manifest, splits)
    scale = SCALES[scores_of(manifest)]
    for split in splits:
        problems += _value_problems(split, summaries[split.name], scale)
        problems += _piece_problems(split)
        sentences = [row["sentence"] for row in split.rows or []]
        text = (manifest or {}).get("text") or {}
        unknown = text.get("unknown_pieces", {}).get(split.name, 0)
        problems += useless_features(summaries[split.name], sentences, unknown)
        problems += _table_problems(split, scale, manifest)
    problems += _overlap_problems(splits)
    notes = list(_notes(folder, text_is_made, splits))
    unlabelled = [
        name
        for name, summary in summaries.items()
        if "label" in summary.arrays and summary.arrays["label"].is_unlabelled
    ]
    if unlabelled:
        notes.append(f"No labels in {', '.join(unlabelled)}: there is nothing to score.")
    return Report(folder, summaries, problems, notes, scale, (folder / STAGE).exists())


def _attempt(read: Callable[[Path], Value], path: Path, problems: list[str]) -> Value | None:
    """Return `read(path)`, or None after adding what is wrong to `problems`."""
    try:
        return read(path)
    except InputError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{error.filename or path} cannot be read: {error.strerror or error}.")
    return None


def _is_there(folder: Path, problems: list[str]) -> bool:
    if not folder.is_dir():
        problems.append(f"No folder {folder}; expected {', '.join(SPLITS)} in {folder.parent}.")
    return folder.is_dir()


def _open_split(folder: Path, text_is_made: bool, problems: list[str]) -> _Split:
    arrays = {}
    for kind, name in BATCH_FILES.items():
        if kind == "text" and not text_is_made and not (folder / name).exists():
            continue  # prepared without text: complete so far
        array = _attempt(NpyReader, folder / name, problems)
        if array is not None:
            arrays[kind] = array
    has_table = (folder / SEGMENTS_FILE).exists()
    rows = _attempt(read_segments, folder, problems) if has_table else None
    pieces = None
    if (folder / PIECES_FILE).exists():
        pieces = _attempt(partial(NpyReader, whole=True), folder / PIECES_FILE, problems)
    return _Split(folder.name, folder, arrays, pieces, rows)


def _summary(split: _Split, bar: tqdm) -> SplitSummary:
    arrays = {}
    for kind, array in split.arrays.items():
        arrays[kind] = ArraySummary(split.path(kind), array.shape, array.dtype)
        for first, block in array.blocks():
            arrays[kind].add(block, first)
            if kind == "text":
                arrays[kind].segment_hashes += [hash(row.tobytes()) for row in block]
            bar.update(block.nbytes)
    sentiments = split.sentiments()
    seconds = split.column("end") - split.column("start")
    return SplitSummary(arrays, sentiments[np.isfinite(sentiments)], seconds[np.isfinite(seconds)])


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


def _count_problems(
    folder: Path, manifest: dict[str, Any] | None, splits: list[_Split]
) -> Iterator[str]:
    for split in splits:
        listed = {
            what: _look_up(manifest, "splits", split.name, what) for what in ("segments", "videos")
        }
        table = f"{split.name}/{SEGMENTS_FILE}"
        segments = {MANIFEST: listed["segments"]}
        for kind, array in split.arrays.items():
            segments[f"{split.name}/{BATCH_FILES[kind]}"] = len(array)
        if split.pieces is not None:
            segments[f"{split.name}/{PIECES_FILE}"] = len(split.pieces)
        videos = {MANIFEST: listed["videos"]}
        if split.rows is not None:
            segments[table] = len(split.rows)
            videos[table] = len({row["video"] for row in split.rows})
        yield from _disagreements(folder, f"segments in {split.name}", segments)
        yield from _disagreements(folder, f"videos in {split.name}", videos)
        if split.arrays and not any(map(len, split.arrays.values())):
            yield f"{split.folder}: no segments, expected at least one."


def _shape_problems(
    folder: Path, manifest: dict[str, Any] | None, splits: list[_Split]
) -> Iterator[str]:
    """Compare rows and features of the same kind across the splits and with the manifest."""
    # Text that came in word pieces keeps their length; the vocabulary is not known then.
    came_in_pieces = ((manifest or {}).get("text") or {}).get("vocabulary") is None
    from_pieces = came_in_pieces and any(split.pieces is not None for split in splits)
    for (kind, axis), keys in _SAME_SIZES.items():
        is_told = not (from_pieces and (kind, axis) == ("text", 1))
        sizes = {MANIFEST: _look_up(manifest, *keys) if is_told else None}
        for split in splits:
            if kind in split.arrays:
                sizes[f"{split.name}/{BATCH_FILES[kind]}"] = split.arrays[kind].shape[axis]
        yield from _disagreements(folder, f"{kind} {_AXES[axis]}", sizes)


def _value_problems(split: _Split, summary: SplitSummary, scale: Scale) -> Iterator[str]:
    """Look for what text and labels must not hold. Audio and visual may hold -inf and NaN."""
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


def _piece_problems(split: _Split) -> Iterator[str]:
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


def _table_problems(split: _Split, scale: Scale, manifest: dict[str, Any] | None) -> Iterator[str]:
    """Check the segment table, by itself and against the labels and the manifest."""
    path = split.folder / SEGMENTS_FILE
    if split.rows is None:
        if manifest is not None and not path.exists():
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
            f"the first {row['sentiment']} of {row['id']} (segment {wrong[0]}); expected "
            f"{labels[wrong[0]]}."
        )


def _overlap_problems(splits: list[_Split]) -> Iterator[str]:
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


def _notes(folder: Path, text_is_made: bool, splits: list[_Split]) -> Iterator[str]:
    """Say what is as it may be, but good to know."""
    if not (folder / MANIFEST).exists():
        yield f"{folder} has no {MANIFEST}: these arrays may come from another program."
        without_table = [s.name for s in splits if not (s.folder / SEGMENTS_FILE).exists()]
        if without_table:
            yield f"No {SEGMENTS_FILE} in {', '.join(without_table)}: ids and times are unknown."
    without_text = [s.name for s in splits if not s.path("text").exists()]
    if without_text and not text_is_made:
        yield (
            f"No {TEXT_FILE} in {', '.join(without_text)}: dataset_prep.py without --no_bert "
            "adds the text features."
        )
    if (folder / STAGE).exists():
        yield (
            f"{folder / STAGE} holds an interrupted preparation; the same dataset_prep.py "
            "command goes on with it."
        )


def _look_up(manifest: dict[str, Any] | None, *keys: str) -> int | None:
    """Return a whole number of the manifest, None where it tells none."""
    value: Any = manifest
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
