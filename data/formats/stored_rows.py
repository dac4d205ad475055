"""Reading rows of an HDF5 dataset, past the library where its layout allows.

A dataset stored in one piece is read at its place in the file, and chunks are taken raw and
decompressed here: the HDF5 library works behind one lock, so that threads would wait, and it
takes a file's word for how large a chunk becomes. All sizes are held against the file's before
memory is asked for: `check_size` comes before reading.
"""

from __future__ import annotations

import math
import os
import zlib
from functools import lru_cache

import h5py
import numpy as np
from h5py import h5d, h5i, h5t, h5z

from data.formats.own_objects import own_filters
from system.errors import InputError

# Features compress to a tenth. Small ones may be all zeros, which compress to nothing.
_MOST_EXPANSION, _ALWAYS_FITS = 100, 64 * 2**20


class StoredRows:
    """One dataset `(n, width)`; indexing it with a slice reads those rows.

    `descriptor` is the open file's, for reading without the library, and `file_bytes` its size.
    Raises InputError, which begins with `where`, when the values are not in the file.
    """

    def __init__(
        self, dataset: h5d.DatasetID, descriptor: int, file_bytes: int, where: str
    ) -> None:
        self._id = dataset
        self._where, self._descriptor, self._file_bytes = where, descriptor, file_bytes
        # None unless in one piece, and in this file: the settings take longer to look at.
        self._offset = dataset.get_offset()
        self._settings = None if self._offset is not None else dataset.get_create_plist()
        self._filters = [] if self._settings is None else own_filters(self._settings, where)
        self.shape: tuple[int, ...] = dataset.shape or ()
        stored_as = dataset.get_type()
        self.dtype: np.dtype = stored_as.dtype
        self._item_bytes = stored_as.get_size()
        if self.dtype.kind == "O":  # a length, a place in the file, and a number
            self._item_bytes = 8 + h5i.get_file_id(dataset).get_create_plist().get_sizes()[0]
        self._is_plain = _type_of(self.dtype) == stored_as
        self._chunk = self._chunk_shape()
        self.is_gzipped = h5z.FILTER_DEFLATE in self._filters
        # A checksum is left to the library, except beside gzip, which has its own.
        has_checksum = h5z.FILTER_FLETCHER32 in self._filters and not self.is_gzipped
        self._is_read_by_chunk = bool(self._chunk) and not has_checksum

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        begin, end, _ = rows.indices(len(self))
        if self.dtype.kind == "O":
            self._check_text(begin, end)
        elif self._is_plain and self._offset is not None:
            return self._read_in_place(begin, end).view(self.dtype)
        elif self._is_read_by_chunk:
            return self._converted(self._read_chunks(begin, end))
        read: np.ndarray = h5py.Dataset(self._id)[begin:end]
        return read

    def _chunk_shape(self) -> tuple[int, ...]:
        if self._settings is None or self._settings.get_layout() != h5d.CHUNKED:
            return ()
        chunk: tuple[int, ...] = self._settings.get_chunk()
        return chunk

    def check_size(self) -> None:
        """Raise InputError where the shape claims more than the file can hold."""
        claimed = math.prod(self.shape) * self._item_bytes
        if not claimed:
            return
        if self._offset is not None:
            held, most = self._file_bytes - self._offset, self._file_bytes - self._offset
        elif not self._chunk:
            held = most = self._id.get_storage_size()
        else:
            claimed, held, most = self._chunk_sizes(claimed)
        if claimed > most or held > self._file_bytes:
            raise InputError(
                f"{self._where}: shape {self.shape} claims {claimed:,} bytes, where the file has "
                f"{held:,} for it; it is damaged, download it again."
            )

    def _chunk_sizes(self, claimed: int) -> tuple[int, int, int]:
        """Return the bytes claimed, those held, and the most that these can become."""
        per_axis = [-(-n // size) for n, size in zip(self.shape, self._chunk, strict=True)]
        count, chunk_bytes = math.prod(per_axis), math.prod(self._chunk) * self._item_bytes
        if count > self._file_bytes:  # counting them would take hours
            return claimed, self._file_bytes, 0
        held, written = self._id.get_storage_size(), self._id.get_num_chunks()
        if written != count:
            raise InputError(
                f"{self._where}: {written:,} of {count:,} chunks were written; it is damaged, "
                "download it again."
            )
        if self.is_gzipped:
            return max(claimed, chunk_bytes), held, held * _MOST_EXPANSION + _ALWAYS_FITS
        checksum_bytes = 4 * (h5z.FILTER_FLETCHER32 in self._filters)
        return count * (chunk_bytes + checksum_bytes), held, held

    def _read_in_place(self, begin: int, end: int) -> np.ndarray:
        row_bytes = self._item_bytes * self.shape[1]
        wanted = (end - begin) * row_bytes
        content = os.pread(self._descriptor, wanted, self._offset + begin * row_bytes)
        if len(content) < wanted:
            raise OSError("the file ends before its data")
        return np.frombuffer(content, f"V{self._item_bytes}").reshape(-1, self.shape[1])

    def _read_chunks(self, begin: int, end: int) -> np.ndarray:
        result = np.empty((end - begin, self.shape[1]), f"V{self._item_bytes}")
        chunk_rows, chunk_columns = self._chunk
        for row in range(begin - begin % chunk_rows, end, chunk_rows):
            first, last = max(row, begin), min(row + chunk_rows, end)
            for column in range(0, self.shape[1], chunk_columns):
                content = self._decoded(*self._id.read_direct_chunk((row, column)))
                chunk = np.frombuffer(content, result.dtype).reshape(chunk_rows, chunk_columns)
                target = result[first - begin : last - begin, column : column + chunk_columns]
                target[:] = chunk[first - row : last - row, : target.shape[1]]
        return result

    def _decoded(self, skipped: int, content: bytes) -> bytes:
        """Undo a chunk's filters, of which `skipped` has a bit for each that was not used."""
        expected = math.prod(self._chunk) * self._item_bytes
        used = {code for bit, code in enumerate(self._filters) if not skipped >> bit & 1}
        if h5z.FILTER_DEFLATE in used:
            stream = zlib.decompressobj()
            content = stream.decompress(content, expected + 1)
            if not stream.eof or len(content) != expected:
                raise OSError(f"a chunk does not hold {expected} bytes")
        if len(content) < expected:
            raise OSError(f"a chunk has {len(content)} bytes, expected {expected}")
        content = content[:expected]
        if h5z.FILTER_SHUFFLE in used:  # all first bytes, then all second ones, ...
            content = np.frombuffer(content, np.uint8).reshape(self._item_bytes, -1).T.tobytes()
        return content

    def _converted(self, values: np.ndarray) -> np.ndarray:
        """Return raw values as NumPy has them; text that is padded with spaces loses them."""
        if self._is_plain:
            return values.view(self.dtype)
        most = max(self._item_bytes, self.dtype.itemsize)
        buffer = np.zeros(values.size * most, np.uint8)
        buffer[: values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
        h5t.convert(self._id.get_type(), _type_of(self.dtype), values.size, buffer)
        size = values.size * self.dtype.itemsize
        return buffer[:size].view(self.dtype).reshape(values.shape)

    def _check_text(self, begin: int, end: int) -> None:
        """Raise InputError where words of any length claim more than the file can hold.

        Each is stored as its length, in four bytes, and where it is.
        """
        if self._offset is not None:
            places = self._read_in_place(begin, end)
        elif self._is_read_by_chunk:
            places = self._read_chunks(begin, end)
        else:
            raise InputError(f"{self._where}: is not stored in one piece; save it again with gzip.")
        lengths = np.frombuffer(places.tobytes(), np.uint8).reshape(-1, self._item_bytes)[:, :4]
        claimed = int(np.ascontiguousarray(lengths).view("<u4").sum(dtype=np.int64))
        if claimed > self._file_bytes:
            raise InputError(
                f"{self._where}: its words claim {claimed:,} bytes, more than the file has; it is "
                "damaged, download it again."
            )


@lru_cache(maxsize=64)
def _type_of(dtype: np.dtype) -> h5t.TypeID:
    """Return HDF5's type for a NumPy one."""
    return h5t.py_create(dtype)
