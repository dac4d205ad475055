"""Problems of the segment tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from data.checking.open_split import OpenSplit, as_float32, counted
from data.checking.problem import Problem, Remedy
from data.labels import Scale
from data.layout import BATCH_FILES, SEGMENTS_FILE, read_ids
from data.manifest import MANIFEST, has_rows


def table_problems(
    split: OpenSplit, scale: Scale, manifest: Mapping[str, Any]
) -> Iterator[Problem]:
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
        number = counted(len(repeated), "id")
        line = f"{path}: {number} more than once, the first {repeated[0]}; expected each once."
        yield Problem(path, line, Remedy.NONE)
    reversed_rows = np.flatnonzero(split.seconds() < 0)
    if len(reversed_rows):
        row = split.rows[reversed_rows[0]]
        yield Problem(
            path,
            f"{path}: {counted(len(reversed_rows), 'segment')} with an end before the start, the "
            f"first {row['id']} ({row['start']} to {row['end']} s); expected none.",
            Remedy.NONE,
        )
    labels = split.sentiments()
    if len(labels) != len(split.rows):
        return  # `count_problems` reports it
    sentiments = as_float32(split.column("sentiment"))
    # problems.py reports labels outside the scale.
    wrong = np.flatnonzero((sentiments != labels) & (np.abs(labels) <= scale.limit))
    if len(wrong):
        row = split.rows[wrong[0]]
        yield Problem(
            path,
            f"{path}: {counted(len(wrong), 'sentiment')} other than in {BATCH_FILES['label']}, "
            f"the first {row['sentiment'] or 'none'} of {row['id']} (segment {wrong[0]}); expected "
            f"{labels[wrong[0]]}.",
        )


def overlap_problems(splits: list[OpenSplit]) -> Iterator[Problem]:
    """Find ids and videos in two splits: scores would be on data that was trained on."""
    for first, second in combinations([split for split in splits if split.rows], 2):
        for column in ("id", "video"):
            values = [{row[column] for row in split.rows or []} for split in (first, second)]
            shared = values[0] & values[1]
            if shared:
                path = second.folder / SEGMENTS_FILE
                yield Problem(
                    path,
                    f"{path}: {counted(len(shared), column)} that {first.name} has as well, the "
                    f"first {min(shared, key=str)}; expected none.",
                    Remedy.NONE,
                )
