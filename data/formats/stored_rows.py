"""Reading rows of an HDF5 dataset, past the library where its layout allows.

A dataset stored in one piece is read at its place in the file, and gzip's chunks are taken raw
and decompressed here: the HDF5 library works behind one lock, so that threads would wait.
"""

from __future__ import annotations

import os
import zlib

import h5py
import numpy as np


class StoredRows:
    """One dataset `(n, width)`; indexing it with a slice reads those rows.

    `descriptor` is the open file's, for reading without the library.
    """

    def __init__(self, dataset: h5py.h5d.DatasetID, descriptor: int) -> None:
        self.shape: tuple[int, ...] = dataset.shape
        self._id = dataset
        self.dtype = dataset.dtype
        self._descriptor = descriptor
        plain = self.dtype.kind in "fiuS"
        in_place = plain and hasattr(os, "pread")  # which Windows lacks
        self._offset = dataset.get_offset() if in_place else None  # None unless in one piece
        self.is_gzipped = plain and self._offset is None and _has_only_gzip(dataset)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        begin, end, _ = rows.indices(len(self))
        if self._offset is not None:
            return self._read_in_place(begin, end)
        if self.is_gzipped:
            return self._read_chunks(begin, end)
        return h5py.Dataset(self._id)[begin:end]

    def _read_in_place(self, begin: int, end: int) -> np.ndarray:
        row_bytes = self.dtype.itemsize * self.shape[1]
        wanted = (end - begin) * row_bytes
        content = os.pread(self._descriptor, wanted, self._offset + begin * row_bytes)
        if len(content) < wanted:
            raise OSError("the file ends before its data")
        return np.frombuffer(content, dtype=self.dtype).reshape(-1, self.shape[1])

    def _read_chunks(self, begin: int, end: int) -> np.ndarray:
        result = np.empty((end - begin, self.shape[1]), dtype=self.dtype)
        chunk_rows, chunk_columns = self._id.get_create_plist().get_chunk()
        for row in range(begin - begin % chunk_rows, end, chunk_rows):
            first, last = max(row, begin), min(row + chunk_rows, end)
            for column in range(0, self.shape[1], chunk_columns):
                filtered, content = self._id.read_direct_chunk((row, column))
                if not filtered:  # 0: no filter was skipped when it was written
                    content = zlib.decompress(content)
                chunk = np.frombuffer(content, self.dtype).reshape(chunk_rows, chunk_columns)
                target = result[first - begin : last - begin, column : column + chunk_columns]
                target[:] = chunk[first - row : last - row, : target.shape[1]]
        return result


def _has_only_gzip(dataset: h5py.h5d.DatasetID) -> bool:
    settings = dataset.get_create_plist()
    filters = [settings.get_filter(index)[0] for index in range(settings.get_nfilters())]
    if filters != [h5py.h5z.FILTER_DEFLATE]:
        return False
    # A chunk that was never written has no bytes to read; the library knows its fill value.
    return dataset.get_num_chunks() == np.prod(
        [-(-size // chunk) for size, chunk in zip(dataset.shape, settings.get_chunk(), strict=True)]
    )
