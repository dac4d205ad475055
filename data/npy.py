"""Writing .npy files row by row, before their length is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

DTYPE = np.dtype(np.float32)


class NpyWriter:
    """A float32 array that grows along its first axis, straight on disk.

    Use it as a context manager: closing it writes the final shape into the header. With
    `resume_at`, the rows before it are kept from an earlier, unfinished writing, and
    everything after them is dropped.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], resume_at: int = 0) -> None:
        self.row_shape = row_shape
        self.rows = resume_at
        self._row_bytes = _row_bytes(row_shape)
        self._file = path.open("r+b" if resume_at else "w+b")
        self._write_header(0)
        self._begin = self._file.tell()
        self._file.seek(self._begin + resume_at * self._row_bytes)
        self._file.truncate()

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.seek(0)
            self._write_header(self.rows)
        finally:
            self._file.close()

    def append(self, rows: np.ndarray) -> None:
        """Add `rows`, `(n, *row_shape)`."""
        self._file.write(np.ascontiguousarray(rows, dtype=DTYPE).data)
        self.rows += len(rows)

    def read(self, row: int) -> np.ndarray:
        """Return a row written earlier."""
        self._file.seek(self._begin + row * self._row_bytes)
        content = self._file.read(self._row_bytes)
        self._file.seek(0, 2)
        return np.frombuffer(content, dtype=DTYPE).reshape(self.row_shape)

    def _write_header(self, rows: int) -> None:
        # NumPy leaves room for the first axis to grow, so the header's length never changes.
        header = {"descr": DTYPE.str, "fortran_order": False, "shape": (rows, *self.row_shape)}
        npy_format.write_array_header_1_0(self._file, header)


def _row_bytes(row_shape: tuple[int, ...]) -> int:
    return int(np.prod(row_shape)) * DTYPE.itemsize


def rows_on_disk(path: Path, row_shape: tuple[int, ...]) -> int:
    """Count the whole rows that an interrupted `NpyWriter` left in `path`; 0 without a file."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        try:
            npy_format.read_magic(file)
            shape, _, dtype = npy_format.read_array_header_1_0(file)
        except ValueError:
            return 0
        if shape[1:] != row_shape or dtype != DTYPE:
            return 0
        return (path.stat().st_size - file.tell()) // _row_bytes(row_shape)
