"""The index of a dataset's chunks: where each is in the HDF5 file."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

import numpy as np
from h5py import h5d

_NODE_BYTES, _HEADER_BYTES = 4096, 24  # usually a whole node; the part before its entries
_CHUNKS = 1  # the type of nodes that index chunks
_MAX_LEVELS = 16  # far more than any published file's


class StoredChunk(NamedTuple):
    """The place of a chunk in the file, in bytes."""

    offset: int
    size: int
    skipped: int  # a bit for each filter that was not used


ChunkIndex = dict[tuple[int, ...], StoredChunk]  # by the chunk's first row and column


def index_by_library(dataset: h5d.DatasetID) -> ChunkIndex:
    """Ask the HDF5 library for all chunks of a dataset, in one call."""
    chunks: list[h5d.StoreInfo] = []
    dataset.chunk_iter(chunks.append)
    return {x.chunk_offset: StoredChunk(x.byte_offset, x.size, x.filter_mask) for x in chunks}


def index_in_tree(descriptor: int, base: int, root: int, rank: int, count: int) -> ChunkIndex:
    """Read the index of `count` chunks of `rank` axes without the library.

    It is a "Version 1 B-tree" of the HDF5 File Format Specification, III.A.1, with its root at the
    address `root`; `base` is the offset of address 0. Raises OSError or ValueError if damaged.
    """
    fields = [("size", "<u4"), ("skipped", "<u4"), ("first", "<u8", (rank,)), ("byte", "<u8")]
    entry = np.dtype([*fields, ("address", "<u8")])
    index: ChunkIndex = {}
    # A level has at most an entry for each chunk, but no fewer levels once chunks are deleted.
    nodes, seen, left = [root], set[int](), _MAX_LEVELS * count
    for node in nodes:
        content = os.pread(descriptor, _NODE_BYTES, base + node)
        signature, kind, level, used = struct.unpack("<4sBBH", content[:8].ljust(8))
        left -= used  # nodes may lie on each other
        if signature != b"TREE" or kind != _CHUNKS or node in seen or left < 0:
            raise OSError("the index of its chunks is damaged")
        seen.add(node)
        size = _HEADER_BYTES + used * entry.itemsize
        if size > _NODE_BYTES:  # a file written with larger nodes
            content = os.pread(descriptor, size, base + node)
        entries = np.frombuffer(content, entry, used, _HEADER_BYTES)
        if level:
            nodes += entries["address"].tolist()
            continue
        offsets = (entries["address"] + np.uint64(base)).tolist()
        sizes, skipped = entries["size"].tolist(), entries["skipped"].tolist()
        keys = map(tuple, entries["first"].tolist())
        index.update(zip(keys, map(StoredChunk, offsets, sizes, skipped), strict=True))
    return index
