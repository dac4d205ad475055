"""Reading rows of an HDF5 dataset from its chunks, decompressed here.

The HDF5 library decompresses in one thread, and takes a file's word for how large a chunk becomes.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from h5py import h5d, h5z

from data.formats.inflate import inflate
from system.cpus import usable_cpus
from system.threads import in_parallel

_GZIP_ALONE = [h5z.FILTER_DEFLATE]
_BYTES_AT_ONCE = 4 * 2**20  # what is decompressed and not copied yet
_BYTES_A_THREAD = 2**17  # with less, waking it takes longer than what it does


class Chunks:
    """The chunks of a dataset `(n, width)`, the values of which have `item_bytes` each.

    `shape` is a chunk's, and `filters` are those of its chunks, in the order of writing.
    """

    def __init__(
        self, dataset: h5d.DatasetID, shape: tuple[int, ...], filters: list[int], item_bytes: int
    ) -> None:
        self.shape = shape
        self.bytes = math.prod(shape) * item_bytes  # when the filters are undone
        self._read_chunk = dataset.read_direct_chunk
        self._filters, self._item_bytes = filters, item_bytes

    def read(self, runs: list[tuple[int, int]], width: int) -> np.ndarray:
        """Read runs of rows (first, one past the last), `(rows, width)`, as raw values.

        A chunk is decompressed once, and only if it holds one of the rows.
        """
        result = np.empty((sum(end - begin for begin, end in runs), width), f"V{self._item_bytes}")
        pieces = self._pieces(runs)
        places = [(row, column) for row in pieces for column in range(0, width, self.shape[1])]
        # One thread takes one at a time: the next lies where the last was, still in the cache.
        count = max(1, _BYTES_AT_ONCE // self.bytes) if usable_cpus() > 1 else 1
        for begin in range(0, len(places), count):
            some = places[begin : begin + count]
            for (row, column), content in zip(some, self._contents(some), strict=True):
                chunk = np.ndarray(self.shape, result.dtype, content)
                columns = result[:, column : column + self.shape[1]]
                values = chunk[:, : columns.shape[1]]
                for place, first, last in pieces[row]:
                    columns[place : place + last - first] = values[first:last]
        return result

    def _contents(self, places: list[tuple[int, int]]) -> list[bytes | bytearray]:
        """Read chunks, by their first row and column, and undo their filters.

        Python's lock is the reason for doing one after the other for many chunks: threads that
        decompress need it for moments only, and would wait for one that reads.
        """
        stored = [self._read_chunk(place) for place in places]
        return in_parallel(self._decoded, stored, len(places) * self.bytes // _BYTES_A_THREAD)

    def _pieces(self, runs: list[tuple[int, int]]) -> dict[int, list[tuple[int, int, int]]]:
        """Cut runs at the chunks' edges: place in the result, first and last row in the chunk.

        They are grouped by the chunk's first row.
        """
        pieces, place, size = defaultdict(list), 0, self.shape[0]
        for begin, end in runs:
            for row in range(begin - begin % size, end, size):
                first, last = max(begin - row, 0), min(end - row, size)
                pieces[row].append((place, first, last))
                place += last - first
        return pieces

    def _decoded(self, skipped: int, stored: bytes) -> bytes | bytearray:
        """Undo a chunk's filters, of which `skipped` has a bit for each that was not used."""
        if not skipped and self._filters == _GZIP_ALONE:  # as the CMU SDK writes them
            return inflate(stored, self.bytes)
        used = {code for bit, code in enumerate(self._filters) if not skipped >> bit & 1}
        content = inflate(stored, self.bytes) if h5z.FILTER_DEFLATE in used else stored
        if len(content) < self.bytes:
            raise OSError(f"a chunk has {len(content)} bytes, expected {self.bytes}")
        if h5z.FILTER_SHUFFLE in used:  # all first bytes, then all second ones, ...
            values = np.frombuffer(content, np.uint8, self.bytes)
            content = values.reshape(self._item_bytes, -1).T.tobytes()
        return content
