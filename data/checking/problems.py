"""Problems of a prepared dataset, one line each, found by comparing its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.checking.open_split import OpenSplit, counted
from data.checking.problem import Problem, Remedy
from data.checking.size_problems import count_problems, shape_problems
from data.checking.summary import SplitSummary, useless_features
from data.checking.table_problems import overlap_problems, table_problems
from data.labels import Scale
from data.layout import HUGE, HUGE_ADVICE, PIECES_FILE, TEXT_LENGTH
from data.manifest import has_text_of_bert

_MAX_PIECES, _MAX_PIECE_ID = 2**16, 10_000_000  # per text, and per vocabulary: beyond any real one


def find_problems(
    folder: Path,
    manifest: Mapping[str, Any],
    splits: list[OpenSplit],
    summaries: Mapping[str, SplitSummary],
    scale: Scale,
) -> Iterator[Problem]:
    """Compare the parts of a dataset with each other; `summaries` are by split."""
    yield from count_problems(folder, manifest, splits)
    yield from shape_problems(folder, manifest, splits)
    unknown = (manifest.get("text") or {}).get("unknown_pieces", {})
    for split in splits:
        summary, sentences = summaries[split.name], [row["sentence"] for row in split.rows or []]
        yield from _value_problems(split, summary, scale, manifest)
        yield from _piece_problems(split)
        yield from useless_features(summary, sentences, unknown.get(split.name, 0))
        yield from table_problems(split, scale, manifest)
    yield from overlap_problems(splits)


def _value_problems(
    split: OpenSplit, summary: SplitSummary, scale: Scale, manifest: Mapping[str, Any]
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
            f"{path}: {counted(len(outside), 'label')} outside [-{scale.limit}, {scale.limit}], "
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
