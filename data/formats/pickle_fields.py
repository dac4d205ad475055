"""Taking the entries of one split out of a processed pickle, each checked as it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from system.errors import InputError

# Far above what is published. Each becomes a Python value, whatever little it takes in the file.
_MOST_ITEMS = 5_000_000
# One long segment pads all others to its length.
_MOST_PADDING, _ALWAYS_FITS = 50, 256 * 2**20
# What MMSA's feature extraction calls them, and what everybody else does.
_OTHER_NAMES = {"feature_T": "text", "feature_A": "audio", "feature_V": "vision"}


class Fields:
    """The entries of one split, taken out of the dict one by one so that their memory is freed.

    `split` is the file's name for it, for messages. Every error is an InputError that says the
    file, the split and the entry, what was found and what was expected.
    """

    def __init__(self, path: Path, split: str, entries: dict[str, Any]) -> None:
        self._where = f"{path}: split {split!r}"
        self._entries = entries
        self._names = listed(entries)
        for theirs, ours in _OTHER_NAMES.items():
            if theirs in entries:
                entries.setdefault(ours, entries.pop(theirs))
        self.ids = self._take_items("id") if "id" in self else None
        self.count = self._count_rows() if self.ids is None else len(self.ids)
        if self.count == 0:
            raise InputError(f"{self._where} is empty, expected segments; use a complete file")

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def error(self, key: str, found: str, expected: str) -> InputError:
        """Return the error that an entry is not as expected."""
        return InputError(
            f"{self._where}, {key!r}: found {found}, expected {expected}; check that the file is "
            "complete and as it was published"
        )

    def texts(self, key: str) -> list[str]:
        """Take one text a segment."""
        items = self._take_items(key)
        if len(items) != self.count:
            raise self.error(key, f"{len(items)} items", self._one_each)
        if any(len(item) != 1 for item in items):
            raise self.error(key, "rows of several items", "one text for each 'id'")
        return [self.as_text(key, item[0]) for item in items]

    def as_text(self, key: str, value: object) -> str:
        """Return `value` as text that UTF-8 can hold.

        Python 2 may have left bytes of UTF-8 or Latin-1.
        """
        if isinstance(value, bytes):
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError:
                return value.decode("latin-1")
        if not isinstance(value, str):
            raise self.error(key, described(value), "text")
        return value.encode("utf-8", errors="replace").decode("utf-8")  # half characters

    def numbers(self, key: str) -> np.ndarray:
        """Take an array of numbers, or a list of them or of small arrays, one item a segment."""
        value = _as_list(self._take(key))
        if isinstance(value, (list, tuple)):
            value = _stacked(value)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise self.error(key, described(value), "an array of numbers")
        if value.ndim == 0 or len(value) != self.count:
            raise self.error(key, f"shape {value.shape}", self._one_each)
        return value

    def features(self, key: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Take features as float32, `(N, rows, channels)`.

        Where the file has an array a segment, of different lengths, zeros are put behind, and
        the lengths `(N,)` are returned too.
        """
        value = _as_list(self._entries.get(key))
        if isinstance(value, (list, tuple)) and _is_ragged(value):
            self._take(key)
            return self._padded(key, value)
        value = self.numbers(key)
        if value.ndim != 3 or 0 in value.shape:
            raise self.error(key, f"shape {value.shape}", f"shape ({self.count}, rows, channels)")
        return value.astype(np.float32, copy=False), None

    def whole(self, key: str, values: np.ndarray, most: int) -> np.ndarray:
        """Return `values`, whole numbers of any type from 0 to `most`, as int64."""
        good = (values >= 0) & (values <= most) & (values == np.floor(values))
        if not good.all():
            raise self.error(key, str(values[~good][0]), f"a whole number from 0 to {most}")
        return values.astype(np.int64, copy=False)

    def _padded(self, key: str, rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        if len(rows) != self.count:
            raise self.error(key, f"{len(rows)} items", self._one_each)
        lengths = np.array([len(row) for row in rows])
        width = rows[0].shape[1]
        wrong = next((row for row in rows if row.shape[1] != width), None)
        if wrong is not None or width == 0:
            found = width if wrong is None else f"{width} and {wrong.shape[1]}"
            raise self.error(key, f"arrays {found} wide", "the same width for each segment")
        size = 4 * len(rows) * int(lengths.max()) * width
        if size > _ALWAYS_FITS and size > _MOST_PADDING * sum(row.nbytes for row in rows):
            found = f"from {lengths.min()} to {lengths.max()} rows a segment"
            raise self.error(key, found, "lengths that are alike")
        values = np.zeros((len(rows), lengths.max(), width), dtype=np.float32)
        for place, row in zip(values, rows, strict=True):
            place[: len(row)] = row
        return values, lengths

    @property
    def _one_each(self) -> str:
        return f"{self.count}, one for each segment"

    def _count_rows(self) -> int:
        """Return how many segments there are, by the first entry that has one item for each."""
        for key in ("vision", "audio", "text"):
            if hasattr(self._entries.get(key), "__len__"):
                return len(self._entries[key])
        self._take("id")
        raise AssertionError  # which there is not: that was an error

    def _take(self, key: str) -> Any:
        if key not in self._entries:
            raise InputError(
                f"{self._where} has no {key!r}, only {self._names}; use a file as it was published"
            )
        return self._entries.pop(key)

    def _take_items(self, key: str) -> list[list[Any]]:
        """Take a list or array of plain values, or of rows of them, as a list of rows."""
        value = self._take(key)
        try:
            if isinstance(value, np.ndarray):
                if value.size > _MOST_ITEMS:
                    raise self.error(key, f"{value.size:,} items", f"at most {_MOST_ITEMS:,}")
                return value.reshape(len(value), -1).tolist() if value.size else []
            if isinstance(value, (list, tuple)):
                return [_row(item) for item in value]
        except (TypeError, ValueError):  # An array without dimensions, an empty row.
            pass
        raise self.error(key, described(value), "a list or an array, one item for each segment")


def _row(item: object) -> list[Any]:
    if isinstance(item, np.ndarray):
        item = item.ravel().tolist()
    row = list(item) if isinstance(item, (list, tuple)) else [item]
    if not row:
        raise ValueError("an empty row")
    return row


def _as_list(value: object) -> object:
    """Return an array of arrays as a list of them."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1:
        return value.tolist()
    return value


def _stacked(items: Sequence[Any]) -> object:
    """Return numbers, or arrays or lists of as many numbers each, as one array."""
    rows = [np.array(item) if is_numbers(item) else item for item in items]
    if is_numbers(rows):
        return np.array(rows)
    if rows and all(isinstance(row, np.ndarray) and row.shape == rows[0].shape for row in rows):
        return np.stack(rows)
    return items


def is_numbers(items: object) -> bool:
    """Tell whether this is a list of plain numbers."""
    return isinstance(items, (list, tuple)) and all(
        isinstance(item, (int, float, np.number)) for item in items
    )


def _is_ragged(items: Sequence[Any]) -> bool:
    """Tell whether these are arrays `(t, width)` of numbers that differ in shape."""
    are_arrays = all(
        isinstance(item, np.ndarray) and item.ndim == 2 and item.dtype.kind in "fiu"
        for item in items
    )
    return are_arrays and len({item.shape for item in items}) > 1


def described(value: object) -> str:
    """Return a short description of a value of which nothing is known, its size included."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    if isinstance(value, (str, bytes, float)):
        return repr(value)[:60]
    return f"a value of type {type(value).__name__}"


def listed(entries: dict[str, Any]) -> str:
    """Return the names of some entries."""
    return ", ".join(repr(key)[:60] for key in list(entries)[:20]) or "nothing"
