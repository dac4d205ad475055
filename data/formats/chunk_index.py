"""Where the chunks of an HDF5 dataset are in its file."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

import numpy as np
from h5py import h5d

_NODE_BYTES, _HEAD_BYTES = 4096, 24  # more than a node usually has, and what its entries follow
_OF_CHUNKS = 1  # a kind of nodes


class StoredChunk(NamedTuple):
    """A chunk in the file."""

    offset: int
    size: int
    skipped: int  # a bit for each filter that was not used


ChunkIndex = dict[tuple[int, ...], StoredChunk]  # by the first row and column


def index_by_library(dataset: h5d.DatasetID) -> ChunkIndex:
    """Ask the HDF5 library for all chunks of a dataset, in one call."""
    found: ChunkIndex = {}

    def note(chunk: h5d.StoreInfo) -> None:
        found[chunk.chunk_offset] = StoredChunk(chunk.byte_offset, chunk.size, chunk.filter_mask)

    dataset.chunk_iter(note)
    return found


def index_in_tree(descriptor: int, base: int, root: int, rank: int, most: int) -> ChunkIndex:
    """Read the index of `most` chunks of `rank` axes, a tree from `root` on, without the library.

    It is a "Version 1 B-tree" of the HDF5 File Format Specification, III.A.1, whose addresses are
    from `base` on. Raises OSError or ValueError where it is damaged.
    """
    fields = [("size", "<u4"), ("skipped", "<u4"), ("first", "<u8", (rank,)), ("byte", "<u8")]
    entry = np.dtype([*fields, ("address", "<u8")])
    found: ChunkIndex = {}
    nodes, seen = [root], set[int]()
    for node in nodes:
        content = os.pread(descriptor, _NODE_BYTES, base + node)
        signature, kind, level, used = struct.unpack("<4sBBH", content[:8].ljust(8))
        if signature != b"TREE" or kind != _OF_CHUNKS or node in seen or len(nodes) > 2 * most + 1:
            raise OSError("the index of its chunks is damaged")
        seen.add(node)
        size = _HEAD_BYTES + used * entry.itemsize
        if size > _NODE_BYTES:  # a file whose maker chose so
            content = os.pread(descriptor, size, base + node)
        entries = np.frombuffer(content, entry, used, _HEAD_BYTES)
        if level:
            nodes += entries["address"].tolist()
            continue
        offsets = (entries["address"] + np.uint64(base)).tolist()
        sizes, skipped = entries["size"].tolist(), entries["skipped"].tolist()
        places = map(tuple, entries["first"].tolist())
        found.update(zip(places, map(StoredChunk, offsets, sizes, skipped), strict=True))
    return found
