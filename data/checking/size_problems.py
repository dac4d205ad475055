"""Problems of sizes: files that disagree on the number of segments, rows or features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.checking.open_split import OpenSplit
from data.checking.problem import Problem
from data.layout import BATCH_FILES, PIECES_FILE, SEGMENTS_FILE
from data.manifest import MANIFEST

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


def count_problems(
    folder: Path, manifest: Mapping[str, Any], splits: list[OpenSplit]
) -> Iterator[Problem]:
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


def shape_problems(
    folder: Path, manifest: Mapping[str, Any], splits: list[OpenSplit]
) -> Iterator[Problem]:
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


def file_size_problems(changed: Mapping[Path, int], told: list[Problem]) -> Iterator[Problem]:
    """Tell the files in `changed`, with the sizes they were written with, unless `told`.

    A segment table may be of any size: `table_problems` compares its rows.
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


def _look_up(manifest: Mapping[str, Any], *keys: str) -> int | None:
    """Return a whole number of the manifest, None where there is none."""
    value: Any = manifest
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None
