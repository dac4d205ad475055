"""Limits on a stranger's pickle: the size and the nesting of its values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from system.torch_layout import require

# Far deeper than published files, far below Python's recursion limit.
_MAX_DEPTH = 50
# A file can repeat a value at the cost of one byte. Small files may do so often.
MAX_EXPANSION, _ALWAYS_ALLOWED = 16, 64 * 2**20
_IN_PROGRESS = (-1, -1)  # instead of depth and bytes, while a value is being measured
_LARGEST_KEY = 2**32  # of larger ones, a file could choose many with the same hash
_MOST_PARTS = 100  # of a tuple as a key, itself and those of its tuples included


def check_key(key: Any) -> None:
    """Raise UnpicklingError for a key that Python could not hash, or only slowly.

    Hashing a tuple that is nested a million deep overruns the stack, and one that holds another
    twice, which holds a third one twice, never ends.
    """
    parts = [key]
    for part in parts:
        if type(part) is tuple:
            parts += part
            require(len(parts) <= _MOST_PARTS, "a key of too many parts")
        elif isinstance(part, int):
            require(abs(part) <= _LARGEST_KEY, "a key that is a huge number")
        else:
            is_plain = isinstance(part, (str, bytes, float, np.generic, type(None)))
            require(is_plain, f"a key of type {type(part).__name__}")


def most_bytes(file_bytes: int) -> int:
    """Return the most bytes that the values of a file may take."""
    return file_bytes * MAX_EXPANSION + _ALWAYS_ALLOWED


def check_size(content: Any, file_bytes: int) -> None:
    """Raise UnpicklingError where values, each written out, are far larger than the file.

    A list may hold another a million times, which may hold a third one a million times.
    """
    size = size_of(content, _bytes_of)
    is_likely = size <= most_bytes(file_bytes)
    require(is_likely, f"values of {size:,} bytes in a file of {file_bytes:,}")


def _bytes_of(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes)) else getattr(value, "nbytes", 0)


def size_of(content: Any, own_size: Callable[[Any], int]) -> int:
    """Return the bytes of values when each is written out: 8, and the `own_size` of a leaf.

    Raises UnpicklingError where they are nested too deep, or within themselves, and whatever
    `own_size` raises for a leaf, a value that contains no others.
    """
    return _measure(content, 0, {}, own_size)[1]


def _measure(
    value: Any, depth: int, measured: dict[int, tuple[int, int]], own_size: Callable[[Any], int]
) -> tuple[int, int]:
    """Return the depth of `value`, and its bytes; `measured` has both of earlier values, by id."""
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        inner: Iterable[Any] = value.ravel().tolist()
    elif isinstance(value, dict):
        inner = [*value, *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = value
    else:
        return 0, 8 + own_size(value)
    if id(value) not in measured:
        require(depth < _MAX_DEPTH, "values nested too deep")
        measured[id(value)] = _IN_PROGRESS
        height, size = 0, 8
        for item in inner:
            item_height, item_size = _measure(item, depth + 1, measured, own_size)
            height, size = max(height, item_height), size + item_size
        measured[id(value)] = height + 1, size
    height, size = measured[id(value)]
    require((height, size) != _IN_PROGRESS, "a list within itself")
    require(depth + height <= _MAX_DEPTH, "values nested too deep")
    return height, size
