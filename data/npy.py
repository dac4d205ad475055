"""Opening .npy files, and writing them row by row, before their length is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from .errors import InputError


class NpyWriter:
    """A float32 array that grows along its first axis, straight on disk.

    Use it as a context manager: closing it writes the final shape into the header.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...]) -> None:
        self._row_shape = row_shape
        self._rows = 0
        self._file = path.open("wb")
        self._write_header()

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.seek(0)
            self._write_header()
        finally:
            self._file.close()

    def append(self, rows: np.ndarray) -> None:
        """Add `rows`, `(n, *row_shape)`."""
        self._file.write(np.ascontiguousarray(rows, dtype=np.float32).data)
        self._rows += len(rows)

    def _write_header(self) -> None:
        # NumPy leaves room for the first axis to grow, so the header's length never changes.
        shape = (self._rows, *self._row_shape)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        npy_format.write_array_header_1_0(self._file, header)


def open_array(path: Path) -> np.ndarray:
    """Map an array of floats `(segments, length, width)` into memory.

    Raises InputError when it is missing, damaged or something else.
    """
    if not path.is_file():
        raise InputError(f"No file {path}; prepare the dataset (again) with dataset_prep.py.")
    try:
        array = np.load(path, mmap_mode="r")
    except OSError:
        raise
    # A damaged header can make NumPy fail in any way.
    except Exception as error:
        raise InputError(
            f"{path} is damaged, or no .npy array ({path.stat().st_size:,} bytes); prepare the "
            "dataset again."
        ) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds no single array; prepare the dataset again.")
    if array.ndim != 3 or array.dtype.kind != "f" or 0 in array.shape[1:]:
        found = f"{array.dtype} of shape {array.shape}"
        raise InputError(f"{path} holds {found}, expected floats (segments, length, width).")
    return array
