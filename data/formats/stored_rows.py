"""Reading rows of an HDF5 dataset, past the library where its layout allows.

A dataset stored in one piece is read at its place in the file, and chunks are taken raw. All
sizes are held against the file's before memory is asked for: `check_size` comes before reading.
"""

from __future__ import annotations

import math

import h5py
import numpy as np
from h5py import h5t, h5z

from data.formats.chunks import Chunks
from data.formats.dataset_layout import Layout
from system.errors import InputError
from system.file_rows import fill, runs_of

# Features compress to a tenth. Small ones may be all zeros, which compress to nothing.
_MOST_EXPANSION, _ALWAYS_FITS = 100, 64 * 2**20


class StoredRows:
    """One dataset `(n, width)`; indexing it with a slice reads those rows, as `take` does others.

    `descriptor` is the open file's, for reading without the library, and `file_bytes` its size.
    Raises InputError, which begins with `where`, when the values are not in the file.
    """

    def __init__(self, layout: Layout, descriptor: int, file_bytes: int, where: str) -> None:
        self._type, self._offset, self._dataset = layout.type, layout.offset, layout.dataset
        self._where, self._descriptor, self._file_bytes = where, descriptor, file_bytes
        self.shape, self.dtype = layout.shape, layout.type.dtype
        self._item_bytes = layout.type.item_bytes
        self._chunks = None if layout.chunk_shape is None else Chunks(layout, descriptor)
        self._is_gzipped = h5z.FILTER_DEFLATE in layout.type.filters
        # A checksum is left to the library, except beside gzip, which has its own.
        has_checksum = h5z.FILTER_FLETCHER32 in layout.type.filters and not self._is_gzipped
        self._read_chunks = None if self._chunks is None or has_checksum else self._chunks.read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        begin, end, _ = rows.indices(len(self))
        return self._read([(begin, end)])

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Read the rows of the given numbers, which rise, `(len(numbers), width)`."""
        return self._read(runs_of(numbers))

    def _read(self, runs: list[tuple[int, int]]) -> np.ndarray:
        """Read rows in runs (first, one past the last), one after another."""
        if self.dtype.kind == "O":
            self._check_text(runs)
        elif self._type.is_plain and self._offset is not None:
            return self._read_in_place(runs).view(self.dtype)
        elif self._read_chunks is not None:
            return self._converted(self._read_chunks(runs, self.shape[1]))
        dataset = h5py.Dataset(self._dataset)
        pieces: list[np.ndarray] = [dataset[begin:end] for begin, end in runs]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def check_size(self) -> None:
        """Raise InputError where the shape claims more than the file can hold."""
        claimed = math.prod(self.shape) * self._item_bytes
        if not claimed:
            return
        if self._offset is not None:
            held, most = self._file_bytes - self._offset, self._file_bytes - self._offset
        elif self._chunks is None:
            assert self._dataset is not None  # neither in one piece nor in chunks
            held = most = self._dataset.get_storage_size()
        else:
            claimed, held, most = self._chunk_sizes(self._chunks, claimed)
        if claimed > most or held > self._file_bytes:
            raise InputError(
                f"{self._where}: shape {self.shape} claims {claimed:,} bytes, where the file has "
                f"{held:,} for it; it is damaged, download it again."
            )

    def _chunk_sizes(self, chunks: Chunks, claimed: int) -> tuple[int, int, int]:
        """Return the bytes claimed, those held, and the most that these can become."""
        per_axis = [-(-n // size) for n, size in zip(self.shape, chunks.shape, strict=True)]
        count, chunk_bytes = math.prod(per_axis), chunks.bytes
        if count > self._file_bytes:  # counting them would take hours
            return claimed, self._file_bytes, 0
        held = sum([chunk.size for chunk in chunks.index.values()])
        written = len(chunks.index)
        if written != count:
            raise InputError(
                f"{self._where}: {written:,} of {count:,} chunks were written; it is damaged, "
                "download it again."
            )
        if self._is_gzipped:
            return max(claimed, chunk_bytes), held, held * _MOST_EXPANSION + _ALWAYS_FITS
        checksum_bytes = 4 * (h5z.FILTER_FLETCHER32 in self._type.filters)
        return count * (chunk_bytes + checksum_bytes), held, held

    def _read_in_place(self, runs: list[tuple[int, int]]) -> np.ndarray:
        assert self._offset is not None  # who calls this has looked
        row_bytes, width = self._item_bytes * self.shape[1], self.shape[1]
        result = np.empty((sum(end - begin for begin, end in runs), width), f"V{self._item_bytes}")
        target = result.reshape(-1).view(np.uint8).data
        for begin, end in runs:
            size = (end - begin) * row_bytes
            if not fill(self._descriptor, target[:size], self._offset + begin * row_bytes):
                raise OSError("the file ends before its data")
            target = target[size:]
        return result

    def _converted(self, values: np.ndarray) -> np.ndarray:
        """Return raw values as NumPy has them; text that is padded with spaces loses them."""
        if self._type.is_plain:
            return values.view(self.dtype)
        most = max(self._item_bytes, self.dtype.itemsize)
        buffer = np.zeros(values.size * most, np.uint8)
        buffer[: values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
        h5t.convert(self._type.stored_as, self._type.read_as, values.size, buffer)
        size = values.size * self.dtype.itemsize
        return buffer[:size].view(self.dtype).reshape(values.shape)

    def _check_text(self, runs: list[tuple[int, int]]) -> None:
        """Raise InputError where words of any length claim more than the file can hold.

        Each is stored as its length, in four bytes, and where it is.
        """
        if self._offset is not None:
            places = self._read_in_place(runs)
        elif self._read_chunks is not None:
            places = self._read_chunks(runs, self.shape[1])
        else:
            raise InputError(f"{self._where}: is not stored in one piece; save it again with gzip.")
        lengths = np.frombuffer(places.tobytes(), np.uint8).reshape(-1, self._item_bytes)[:, :4]
        claimed = int(np.ascontiguousarray(lengths).view("<u4").sum(dtype=np.int64))
        if claimed > self._file_bytes:
            raise InputError(
                f"{self._where}: its words claim {claimed:,} bytes, more than the file has; it is "
                "damaged, download it again."
            )
