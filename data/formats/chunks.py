"""Reading rows of an HDF5 dataset from its chunks, decompressed here.

The HDF5 library decompresses in one thread, and trusts the file about the size of a chunk.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from h5py import h5z

from data.formats.chunk_index import ChunkIndex, StoredChunk
from data.formats.dataset_layout import Layout
from data.formats.inflate import inflate
from system.threads import in_parallel

_BYTES_PER_THREAD = 2**17  # with less, starting a thread takes longer than its work

_Piece = tuple[int, int, int]  # first row in the result; first and end row in the chunk


class Chunks:
    """The chunks of a dataset `(n, width)`, read through the open file's `descriptor`."""

    def __init__(self, layout: Layout, descriptor: int) -> None:
        assert layout.chunk_shape is not None
        self.shape = layout.chunk_shape
        self._filters, self._item_bytes = layout.type.filters, layout.type.item_bytes
        self.bytes = math.prod(self.shape) * self._item_bytes  # decompressed
        self._find, self._descriptor = layout.find_chunks, descriptor

    @cached_property
    def index(self) -> ChunkIndex:
        """The place of each chunk in the file, read once."""
        return self._find()

    def read(self, runs: list[tuple[int, int]], result: np.ndarray) -> None:
        """Read runs of rows (first, one past the last) into `result`, raw values `(rows, width)`.

        A chunk is decompressed once, and only if it holds one of the rows.
        """
        pieces = self._cut(runs)
        row_bytes = self.bytes * -(-result.shape[1] // self.shape[1])  # of the chunks side by side
        calls = [(result, row, row_pieces) for row, row_pieces in pieces.items()]
        in_parallel(self._copy, calls, len(pieces) * row_bytes // _BYTES_PER_THREAD)

    def _copy(self, result: np.ndarray, row: int, pieces: list[_Piece]) -> None:
        """Copy pieces of the chunks whose first row is `row` into the result."""
        width, step = result.shape[1], self.shape[1]
        columns = range(0, width, step)
        chunks = [self.index[row, column] for column in columns]
        for column, chunk, content in zip(columns, chunks, self._contents(chunks), strict=True):
            values = np.ndarray(self.shape, result.dtype, self._decode(chunk.skipped, content))
            target = result[:, column : column + step]
            values = values[:, : target.shape[1]]
            for begin, first, end in pieces:
                target[begin : begin + end - first] = values[first:end]

    def _contents(self, chunks: list[StoredChunk]) -> Iterator[bytes | memoryview]:
        """Read chunks, all at once if they are consecutive in the file, as HDF5 writes them."""
        begin, size = chunks[0].offset, sum([chunk.size for chunk in chunks])
        together = memoryview(os.pread(self._descriptor, size, begin))
        for chunk in chunks:
            start = chunk.offset - begin
            if 0 <= start <= size - chunk.size:
                yield together[start : start + chunk.size]
            else:
                yield os.pread(self._descriptor, chunk.size, chunk.offset)

    def _cut(self, runs: list[tuple[int, int]]) -> dict[int, list[_Piece]]:
        """Cut runs at the chunks' edges; returns the pieces by the chunk's first row."""
        pieces, result_row, size = defaultdict(list), 0, self.shape[0]
        for begin, end in runs:
            for row in range(begin - begin % size, end, size):
                first, last = max(begin - row, 0), min(end - row, size)
                pieces[row].append((result_row, first, last))
                result_row += last - first
        return pieces

    def _decode(self, skipped: int, stored: bytes | memoryview) -> bytes | bytearray | memoryview:
        """Undo a chunk's filters; `skipped` has a bit for each filter that was not used."""
        used = {code for bit, code in enumerate(self._filters) if not skipped >> bit & 1}
        content = inflate(stored, self.bytes) if h5z.FILTER_DEFLATE in used else stored
        if len(content) < self.bytes:
            raise OSError(f"a chunk has {len(content)} bytes, expected {self.bytes}")
        if h5z.FILTER_SHUFFLE in used:  # all first bytes, then all second ones, ...
            values = np.frombuffer(content, np.uint8, self.bytes)
            content = values.reshape(self._item_bytes, -1).T.tobytes()
        return content
