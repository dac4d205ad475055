"""Taking the entries of one split out of a processed pickle, and checking each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from system.errors import InputError

# Far above published files. Each item becomes a Python value, even if it is small in the file.
_MAX_ITEMS = 5_000_000
# One long segment pads all others to its length.
MAX_PADDING, ALWAYS_FITS = 50, 256 * 2**20
# The entries' names in MMSA's feature extraction, and in all other files.
_OTHER_NAMES = {"feature_T": "text", "feature_A": "audio", "feature_V": "vision"}


class Fields:
    """The entries of one split, removed from the dict one by one so that their memory is freed.

    `split` is its name in the file, for messages. Every error is an InputError that names the
    file, the split and the entry, what was found and what was expected.
    """

    def __init__(self, path: Path, split: str, entries: dict[str, Any]) -> None:
        self._where = f"{path}: split {split!r}"
        self._entries = entries
        self._names = list_names(entries)
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
        """Return the error for an entry that is not as expected."""
        return InputError(
            f"{self._where}, {key!r}: found {found}, expected {expected}; check that the file is "
            "complete and as it was published"
        )

    def texts(self, key: str) -> list[str]:
        """Take one text per segment."""
        items = self._take_items(key)
        if len(items) != self.count:
            raise self.error(key, f"{len(items)} items", self._one_each)
        if any(len(item) != 1 for item in items):
            raise self.error(key, "rows of several items", "one text for each 'id'")
        return [self.as_text(key, item[0]) for item in items]

    def as_text(self, key: str, value: object) -> str:
        """Return `value` as text that can be written as UTF-8.

        Python 2 may have written it as bytes of UTF-8 or Latin-1.
        """
        if isinstance(value, bytes):
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError:
                return value.decode("latin-1")
        if not isinstance(value, str):
            raise self.error(key, describe(value), "text")
        return value.encode("utf-8", errors="replace").decode("utf-8")  # lone surrogates

    def numbers(self, key: str) -> np.ndarray:
        """Take an array of numbers, or a list of numbers or small arrays, one per segment."""
        return self._checked_numbers(key, _stacked(self._take(key)))

    def _checked_numbers(self, key: str, value: object) -> np.ndarray:
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise self.error(key, describe(value), "an array of numbers")
        if value.ndim == 0 or len(value) != self.count:
            raise self.error(key, f"shape {value.shape}", self._one_each)
        return value

    def features(self, key: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Take features as float32, `(N, rows, channels)`.

        If the file has an array per segment, of different lengths, zeros are added at the end,
        and the lengths `(N,)` are returned too.
        """
        value = _stacked(self._take(key))
        if isinstance(value, (list, tuple)) and _is_ragged(value):
            return self._pad(key, value)
        value = self._checked_numbers(key, value)
        if value.ndim != 3 or 0 in value.shape:
            raise self.error(key, f"shape {value.shape}", f"shape ({self.count}, rows, channels)")
        return value.astype(np.float32, copy=False), None

    def integers(self, key: str, values: np.ndarray, limit: int) -> np.ndarray:
        """Return `values`, whole numbers of any type from 0 to `limit`, as int64."""
        is_valid = (values >= 0) & (values <= limit) & (values == np.floor(values))
        if not is_valid.all():
            raise self.error(key, str(values[~is_valid][0]), f"a whole number from 0 to {limit}")
        return values.astype(np.int64, copy=False)

    def _pad(self, key: str, rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        if len(rows) != self.count:
            raise self.error(key, f"{len(rows)} items", self._one_each)
        lengths = np.array([len(row) for row in rows])
        width = rows[0].shape[1]
        other_width = next((row.shape[1] for row in rows if row.shape[1] != width), None)
        if other_width is not None or width == 0:
            found = width if other_width is None else f"{width} and {other_width}"
            raise self.error(key, f"arrays {found} wide", "the same width for each segment")
        size = 4 * len(rows) * int(lengths.max()) * width
        if size > ALWAYS_FITS and size > MAX_PADDING * sum(row.nbytes for row in rows):
            found = f"from {lengths.min()} to {lengths.max()} rows a segment"
            raise self.error(key, found, "lengths that are more alike")
        values = np.zeros((len(rows), lengths.max(), width), dtype=np.float32)
        for padded, row in zip(values, rows, strict=True):
            padded[: len(row)] = row
        return values, lengths

    @property
    def _one_each(self) -> str:
        return f"{self.count}, one for each segment"

    def _count_rows(self) -> int:
        """Return the number of segments: the length of the first entry with one item for each."""
        for key in ("vision", "audio", "text"):
            if hasattr(self._entries.get(key), "__len__"):
                return len(self._entries[key])
        return len(self._take("id"))  # which raises: there is none

    def _take(self, key: str) -> Any:
        if key not in self._entries:
            raise InputError(
                f"{self._where} has no {key!r}, only {self._names}; use a file as it was published"
            )
        return self._entries.pop(key)

    def _take_items(self, key: str) -> list[list[Any]]:
        """Take a list or array of plain values, or of rows of values, as a list of rows."""
        value = self._take(key)
        try:
            if isinstance(value, np.ndarray):
                if value.size > _MAX_ITEMS:
                    raise self.error(key, f"{value.size:,} items", f"at most {_MAX_ITEMS:,}")
                return value.reshape(len(value), -1).tolist() if value.size else []
            if isinstance(value, (list, tuple)):
                return [_row(item) for item in value]
        except (TypeError, ValueError):  # An array without dimensions, an empty row.
            pass
        raise self.error(key, describe(value), "a list or an array, one item for each segment")


def _row(item: object) -> list[Any]:
    if isinstance(item, np.ndarray):
        item = item.ravel().tolist()
    row = list(item) if isinstance(item, (list, tuple)) else [item]
    if not row:
        raise ValueError("an empty row")
    return row


def _stacked(value: object) -> object:
    """Return numbers, or equally long arrays or lists of numbers, as one array if possible."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return value
    rows = [np.array(item) if _are_numbers(item) else item for item in value]
    if _are_numbers(rows):
        return np.array(rows)
    if rows and all(isinstance(row, np.ndarray) and row.shape == rows[0].shape for row in rows):
        return np.stack(rows)
    return value


def _are_numbers(items: object) -> bool:
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


def describe(value: object) -> str:
    """Return a short description of any value, of any size."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    if isinstance(value, (str, bytes, float)):
        return repr(value)[:60]
    return f"a value of type {type(value).__name__}"


def list_names(entries: Iterable[str]) -> str:
    """Return the names of the first 20 entries, for messages."""
    return ", ".join(repr(key)[:60] for key in list(entries)[:20]) or "nothing"
