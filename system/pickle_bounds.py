"""What a pickle from a stranger may not exceed: its own size, and what Python can bear."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from system.torch_layout import require

# Far above what circulates, far below what Python's own recursion can bear.
_DEEPEST = 50
# A value costs one byte when it is named again. Small files may do so a lot.
_MOST_EXPANSION, _ALWAYS_FITS = 16, 64 * 2**20
_UNDER_WAY = (-1, -1)  # for depth and bytes of what is being measured
_LARGEST_KEY = 2**32  # Python hashes larger ones so that all of them can be made to meet


def check_key(key: Any, depth: int = 0) -> None:
    """Raise UnpicklingError for a key that Python could not hash, or only slowly.

    Hashing a tuple that is nested a million deep overruns the stack.
    """
    if type(key) is tuple:
        require(depth < _DEEPEST, "a key nested too deep")
        for item in key:
            check_key(item, depth + 1)
    elif isinstance(key, int):
        require(abs(key) <= _LARGEST_KEY, "a key that is a huge number")
    else:
        is_plain = isinstance(key, (str, bytes, float, np.generic, type(None)))
        require(is_plain, f"a key of type {type(key).__name__}")


def check_size(content: Any, file_bytes: int) -> None:
    """Raise UnpicklingError where values, each written out, are far more than the file.

    A list may hold another a million times, which may hold a third one a million times.
    """
    most = file_bytes * _MOST_EXPANSION + _ALWAYS_FITS
    size = size_of(content, _bytes_of)
    require(size <= most, f"values of {size:,} bytes in a file of {file_bytes:,}")


def _bytes_of(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes)) else getattr(value, "nbytes", 0)


def size_of(content: Any, own_size: Callable[[Any], int]) -> int:
    """Return the bytes of values when each is written out: 8, and what it has of its own.

    Raises UnpicklingError where they are nested too deep, or within themselves, and whatever
    `own_size` raises for a value that holds no others.
    """
    return _measure(content, 0, {}, own_size)[1]


def _measure(
    value: Any, depth: int, known: dict[int, tuple[int, int]], own_size: Callable[[Any], int]
) -> tuple[int, int]:
    """Return how deep `value` is nested, and its bytes; `known` has both, by id."""
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        inner: Iterable[Any] = value.ravel().tolist()
    elif isinstance(value, dict):
        inner = [*value, *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = value
    else:
        return 0, 8 + own_size(value)
    if id(value) not in known:
        require(depth < _DEEPEST, "values nested too deep")
        known[id(value)] = _UNDER_WAY
        height, size = 0, 8
        for item in inner:
            item_height, item_size = _measure(item, depth + 1, known, own_size)
            height, size = max(height, item_height), size + item_size
        known[id(value)] = height + 1, size
    found = known[id(value)]
    require(found != _UNDER_WAY, "a list within itself")
    require(depth + found[0] <= _DEEPEST, "values nested too deep")
    return found
