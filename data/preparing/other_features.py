"""One modality from another pickle, joined by what both files call a segment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from pathlib import Path

import numpy as np

from data.formats.pickle_split import Names
from data.formats.pickles import read_features
from data.preparing.alignment import pad_in_front
from system.errors import InputError

_KEYS = {"audio": "audio", "visual": "vision"}  # by modality, the entry in a pickle


class OtherFeatures:
    """The features of one modality, audio or visual, that another pickle has.

    Raises InputError when the file cannot be read, has no ids, or an id twice.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        parts = read_features(path, _KEYS[kind])
        keys = keys_of(path, [names for names, _ in parts])
        if len({features.shape[2] for _, features in parts}) > 1:
            raise InputError(f"{path}: {kind} is of different widths from split to split.")
        length = max(features.shape[1] for _, features in parts)
        padded = [_padded(features, length) for _, features in parts]
        self._values = np.concatenate(padded)
        self._row_of = {key: row for row, key in enumerate(keys)}
        self._used: set[int] = set()

    def rows_for(self, names: Names) -> np.ndarray:
        """Return the row `(N,)` here of each segment that `names` names, -1 where there is none."""
        rows = np.array([self._row_of.get(key, -1) for key in names.keys or ()])
        self._used.update(rows[rows >= 0].tolist())
        return rows

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Return some rows' features, `(len(rows), longest of the file, width)` float32."""
        found: np.ndarray = self._values[rows]
        return found

    @property
    def unused(self) -> int:
        """How many segments no call of `rows_for` has asked for."""
        return len(self._values) - len(self._used)


def _padded(features: np.ndarray, length: int) -> np.ndarray:
    """Put zeros in front of each segment's rows, `(n, t, width)` to `(n, length, width)`."""
    segments, rows, width = features.shape
    return pad_in_front(features.reshape(-1, width), [rows] * segments, length)


def keys_of(path: Path, splits: list[Names]) -> list[Hashable]:
    """Return by what the segments of a file are known; raises InputError unless that is unique."""
    if any(names.keys is None for names in splits):
        raise InputError(f"{path} has no 'id', by which another file's segments could be joined.")
    keys = [key for names in splits for key in names.keys or ()]
    if len(set(keys)) < len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise InputError(f"{path} has the id {twice!r} twice; files are joined by unique ids.")
    return keys
