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


def read_other_features(path: Path, kind: str) -> tuple[np.ndarray, dict[Hashable, int]]:
    """Return another pickle's features of one modality, and each segment's row in them by its key.

    Features are `(N, longest of the file, width)` float32, of all splits. Raises InputError when
    the file cannot be read, has no ids, or an id twice.
    """
    parts = read_features(path, _KEYS[kind])
    keys = keys_of(path, [names for names, _ in parts])
    if len({features.shape[2] for _, features in parts}) > 1:
        raise InputError(f"{path}: {kind} is of different widths from split to split.")
    length = max(features.shape[1] for _, features in parts)
    padded = []
    for _, features in parts:
        segments, rows, width = features.shape
        padded.append(pad_in_front(features.reshape(-1, width), [rows] * segments, length))
    return np.concatenate(padded), {key: row for row, key in enumerate(keys)}


def keys_of(path: Path, splits: list[Names]) -> list[Hashable]:
    """Return by what the segments of a file are known; raises InputError unless that is unique."""
    if any(names.keys is None for names in splits):
        raise InputError(f"{path} has no 'id', by which another file's segments could be joined.")
    keys = [key for names in splits for key in names.keys or ()]
    if len(set(keys)) < len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise InputError(f"{path} has the id {twice!r} twice; files are joined by unique ids.")
    return keys
