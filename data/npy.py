"""Reading .npy files some rows at a time, and writing them before their length is known."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from data.layout import ARRAY_FILES
from system.errors import InputError, explain_reading, shown
from system.file_rows import read_runs, runs_of
from system.files import not_a_file

Rows = Sequence[int] | np.ndarray  # segments, by number
_LABELS = ARRAY_FILES["label"]
_BYTES_AT_ONCE = 8 * 2**20


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a .npy file of float32 values.

    NumPy leaves room for the first axis to grow, so the header's length does not depend on it.
    """
    header = BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(header, fields)
    return header.getvalue()


class NpyWriter:
    """A float32 array that grows along its first axis, straight on disk.

    Use it as a context manager: closing it writes the final shape into the header.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...]) -> None:
        self._row_shape = row_shape
        self._rows = 0
        self._file = path.open("wb")
        self._file.write(npy_header((0, *row_shape)))

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.seek(0)
            self._file.write(npy_header((self._rows, *self._row_shape)))
        finally:
            self._file.close()

    def append(self, rows: np.ndarray) -> np.ndarray:
        """Append `rows`, `(n, *row_shape)`; returns them as they are written, in float32."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        self._file.write(rows.data)
        self._rows += len(rows)
        return rows


class NpyReader:
    """An array `(segments, length, width)` on disk, read some segments at a time.

    Unlike a memory map, reading keeps no part of the file in memory, fetches only the rows asked
    for, and raises an error for a truncated file, where a map would end the process. Forked
    processes may share a reader. Raises InputError when the file is missing or damaged, or does
    not hold floats (with `holds_integers`, integers).
    """

    def __init__(self, path: Path, holds_integers: bool = False) -> None:
        self.path = path
        self.shape, self.dtype, self.offset = _read_header(path, holds_integers)
        self.row_bytes = self.dtype.itemsize * self.shape[1] * self.shape[2]
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """The size of the whole array in bytes."""
        return len(self) * self.row_bytes

    def read(self, rows: Rows) -> np.ndarray:
        """Read segments, in the given order: `(len(rows), length, width)`, as stored.

        Raises InputError when the file has become too short, or cannot be read.
        """
        with explain_reading(self.path):
            values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        try:
            is_whole = read_runs(self._file, runs_of(rows), self.offset, values)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}.") from error
        if not is_whole:
            raise InputError(
                f"{self.path} has become {os.fstat(self._file).st_size:,} bytes long, expected "
                f"{self.offset + self.nbytes:,}; prepare the dataset again."
            )
        return values

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Read all, some MB at a time; yields each block after the number of its first segment."""
        block_rows = max(_BYTES_AT_ONCE // self.row_bytes, 1)
        for first in range(0, len(self), block_rows):
            yield first, self.read(range(first, min(first + block_rows, len(self))))

    def ranges(self) -> tuple[list[int], list[int]]:
        """Read all; returns the lowest and the highest value of each row over all segments."""
        extremes = [(block.min((0, 2)), block.max((0, 2))) for _, block in self.blocks()]
        lowest, highest = zip(*extremes, strict=True)
        return np.min(lowest, axis=0).tolist(), np.max(highest, axis=0).tolist()

    def prefetch(self, rows: Rows) -> None:
        """Ask the operating system, where it can, to load segments; returns at once."""
        if not hasattr(os, "posix_fadvise"):
            return
        with suppress(OSError):  # only advice, which may be refused
            for first, end in runs_of(rows):
                offset, size = self.offset + first * self.row_bytes, (end - first) * self.row_bytes
                os.posix_fadvise(self._file, offset, size, os.POSIX_FADV_WILLNEED)


_HEADER_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


def _read_header(path: Path, holds_integers: bool) -> tuple[tuple[int, int, int], np.dtype, int]:
    """Return the shape, the stored dtype and the offset of the values, after checking its size."""
    if not path.is_file():
        raise InputError(f"{not_a_file(path)}; prepare the dataset (again) with dataset_prep.py.")
    size = path.stat().st_size
    try:
        with explain_reading(path), path.open("rb") as file:
            read = _HEADER_READERS[npy_format.read_magic(file)]
            shape, is_fortran, dtype = read(file)
            offset = file.tell()
    except OSError:
        raise
    # A damaged header can make NumPy fail in any way.
    except Exception as error:
        raise InputError(
            f"{path} is damaged, or no .npy array ({size:,} bytes); prepare the dataset again."
        ) from error
    if len(shape) != 3 or dtype.kind not in ("iu" if holds_integers else "f") or 0 in shape[1:]:
        kind = "whole numbers" if holds_integers else "floats"
        axes = "(N, 1, L), sentiment first" if path.name == _LABELS else "(segments, length, width)"
        raise InputError(
            f"{path} holds {dtype.name} of shape {shown(shape)}, expected {kind} {axes}; save it "
            "again in that form."
        )
    expected = offset + math.prod(shape) * dtype.itemsize
    if min(shape) < 0 or size < expected:
        raise InputError(
            f"{path} is damaged: shape {shape} needs {expected:,} bytes, it has {size:,}; prepare "
            "the dataset again."
        )
    if is_fortran and sum(length > 1 for length in shape) > 1:
        raise InputError(
            f"{path} is stored in Fortran order, expected C order; save it again with "
            "numpy.save(path, numpy.ascontiguousarray(array))."
        )
    return shape, dtype, offset
