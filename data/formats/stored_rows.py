"""Reading rows of an HDF5 dataset, without the library where the layout allows it.

A dataset stored in one piece is read directly from the file, and chunks are read raw. Sizes must be
compared with the file's before memory is allocated: call `check_size` before reading.
"""

from __future__ import annotations

import math

import h5py
import numpy as np
from h5py import h5t, h5z

from data.formats.chunks import Chunks
from data.formats.dataset_layout import Layout
from data.formats.text_heaps import have_sound_heaps
from system.errors import InputError
from system.file_rows import read_runs, runs_of

# Features compress to a tenth. Small ones may be all zeros, which compress to almost nothing.
_MAX_EXPANSION, _ALWAYS_FITS = 100, 64 * 2**20


def expanded(stored: int) -> int:
    """Return the most bytes that so many in a file may expand to."""
    return stored * _MAX_EXPANSION + _ALWAYS_FITS


class StoredRows:
    """One dataset `(n, width)`, of which any rows can be read.

    `descriptor` is that of the open file, for reading without the library, and `file_bytes` the
    file's size. Messages begin with `where`.
    """

    def __init__(self, layout: Layout, descriptor: int, file_bytes: int, where: str) -> None:
        self._offset, self._dataset, self._type = layout.offset, layout.dataset, layout.type
        self._where, self._descriptor, self.file_bytes = where, descriptor, file_bytes
        self.shape, self.dtype = layout.shape, layout.type.dtype
        self._item_bytes = layout.type.item_bytes
        self._chunks = None if layout.chunk_shape is None else Chunks(layout, descriptor)
        self._is_gzipped = h5z.FILTER_DEFLATE in layout.type.filters
        self._has_checksum = h5z.FILTER_FLETCHER32 in layout.type.filters

    def __len__(self) -> int:
        return self.shape[0]

    def read_all(self) -> np.ndarray:
        """Read all rows, `(n, width)`."""
        return self._read([(0, len(self))])

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Read the rows with these increasing numbers, `(len(numbers), width)`."""
        return self._read(runs_of(numbers))

    def _read(self, runs: list[tuple[int, int]]) -> np.ndarray:
        """Read runs of rows (first, one past the last), and concatenate them."""
        values = self._read_raw(runs)
        if self.dtype.kind == "O":
            self._check_text(values)
        elif values is not None:
            return self._convert(values)
        dataset = h5py.Dataset(self._dataset)
        return np.concatenate([dataset[begin:end] for begin, end in runs])

    def _read_raw(self, runs: list[tuple[int, int]]) -> np.ndarray | None:
        """Read runs of rows as they are stored; None where only the library can."""
        rows = sum(end - begin for begin, end in runs)
        values = np.empty((rows, self.shape[1]), f"V{self._item_bytes}")
        if self._offset is not None:
            if not read_runs(self._descriptor, runs, self._offset, values):
                raise OSError("the file ends before its data")
        elif self._chunks is not None and (self._is_gzipped or not self._has_checksum):
            self._chunks.read(runs, values)
        else:  # the library verifies checksums, except with gzip, which has its own
            return None
        return values

    def check_size(self) -> tuple[int, int]:
        """Return the bytes that the shape claims, and how many of the file's are their store.

        Raises InputError if the shape claims more than the file can hold.
        """
        claimed = rows_bytes = math.prod(self.shape) * self._item_bytes
        if not claimed:
            return 0, 0
        if self._offset is not None:
            stored = limit = self.file_bytes - self._offset
        elif self._chunks is None:
            assert self._dataset is not None  # neither in one piece nor in chunks
            stored = limit = self._dataset.get_storage_size()
        else:
            claimed, stored, limit = self._chunk_sizes(self._chunks, claimed)
        if claimed > limit or stored > self.file_bytes:
            raise InputError(
                f"{self._where}: shape {self.shape} claims {claimed:,} bytes, but the file has "
                f"{stored:,} for it; it is damaged, download it again."
            )
        return rows_bytes, min(claimed, stored)  # what follows values in one piece is not theirs

    def _chunk_sizes(self, chunks: Chunks, claimed: int) -> tuple[int, int, int]:
        """Return the claimed bytes, the stored bytes, and the limit of the claimed ones."""
        per_axis = [-(-n // size) for n, size in zip(self.shape, chunks.shape, strict=True)]
        count = math.prod(per_axis)
        if count > self.file_bytes:  # counting them would take hours
            return claimed, self.file_bytes, 0
        written, stored = len(chunks.index), sum([chunk.size for chunk in chunks.index.values()])
        if written != count:
            raise InputError(
                f"{self._where}: {written:,} of {count:,} chunks were written; it is damaged, "
                "download it again."
            )
        if self._is_gzipped:
            return max(claimed, chunks.bytes), stored, expanded(stored)
        return count * (chunks.bytes + 4 * self._has_checksum), stored, stored

    def _convert(self, values: np.ndarray) -> np.ndarray:
        """Convert raw values to NumPy's types; text loses the spaces that pad it."""
        if self._type.is_plain:
            return values.view(self.dtype)
        item_bytes = max(self._item_bytes, self.dtype.itemsize)
        buffer = np.zeros(values.size * item_bytes, np.uint8)
        buffer[: values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
        h5t.convert(self._type.stored_as, self._type.read_as, values.size, buffer)
        size = values.size * self.dtype.itemsize
        return buffer[:size].view(self.dtype).reshape(values.shape)

    def _check_text(self, references: np.ndarray | None) -> None:
        """Raise InputError if the library cannot read words of variable length.

        Each is stored as its length, in four bytes, and its place in a heap.
        """
        if references is None:
            raise InputError(f"{self._where}: is not stored in one piece; save it again with gzip.")
        items = np.frombuffer(references.tobytes(), np.uint8).reshape(-1, self._item_bytes)
        claimed = int(np.ascontiguousarray(items[:, :4]).view("<u4").sum(dtype=np.int64))
        if claimed > self.file_bytes:
            raise InputError(
                f"{self._where}: its words claim {claimed:,} bytes, more than the file has; it is "
                "damaged, download it again."
            )
        if not have_sound_heaps(self._dataset, items):
            raise InputError(f"{self._where}: its words are in a damaged heap; download it again.")
