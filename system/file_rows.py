"""Rows of equal size in a file: grouping consecutive ones, and reading them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np


def runs_of(rows: Sequence[int] | np.ndarray) -> list[tuple[int, int]]:
    """Return the runs of consecutive numbers in `rows`, each as its first and one past its last."""
    rows = np.asarray(rows, dtype=np.int64)
    if not len(rows):
        return []
    ends = np.flatnonzero(rows[1:] != rows[:-1] + 1)
    firsts, lasts = rows[[0, *(ends + 1)]], rows[[*ends, -1]]
    return list(zip(firsts.tolist(), (lasts + 1).tolist(), strict=True))


def fill(descriptor: int, target: memoryview, offset: int) -> bool:
    """Fill `target` with the bytes at `offset` of an open file; False where the file is too short.

    Threads and forked processes may share the descriptor. Raises OSError as the system does.
    """
    while target:
        count = os.preadv(descriptor, [target], offset)
        if not count:
            return False
        target, offset = target[count:], offset + count
    return True


def read_runs(
    descriptor: int, runs: Sequence[tuple[int, int]], offset: int, target: np.ndarray
) -> bool:
    """Fill `target`, `(rows, ...)`, with runs of the rows that begin at `offset` of an open file.

    Returns False where the file is too short; raises OSError as the system does.
    """
    row_bytes, remaining = target.strides[0], target.reshape(-1).view(np.uint8).data
    for first, end in runs:
        size = (end - first) * row_bytes
        if not fill(descriptor, remaining[:size], offset + first * row_bytes):
            return False
        remaining = remaining[size:]
    return True
