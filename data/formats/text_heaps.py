"""The heaps in which an HDF5 file keeps text of variable length.

The library walks through a heap by the sizes that stand in it, and trusts them: a single damaged
byte makes this a walk without end. See the HDF5 File Format Specification, III.E "Global Heap".
"""

from __future__ import annotations

import os

import numpy as np
from h5py import h5d, h5i

from data.formats.object_header import HeaderReader, number_in

_SIGNATURE = b"GCOL"
_ALIGNMENT = 8  # bytes, of the objects in a heap
_LENGTH_BYTES = 4  # of a text, before the heap's address


def have_sound_heaps(dataset: h5d.DatasetID, references: np.ndarray) -> bool:
    """Tell whether the library can walk through the heaps that texts are in.

    `references`, `(n, bytes)`, has what is stored of each text: its length, the address of its heap
    (0: it has none) and its number there.
    """
    file = HeaderReader(h5i.get_file_id(dataset))
    address_bytes, size_bytes = file.widths
    columns = references[:, _LENGTH_BYTES : _LENGTH_BYTES + address_bytes]
    addresses = {number_in(row.tobytes()) for row in np.unique(columns, axis=0)} - {0}
    return all(_is_sound(file.descriptor, file.base + each, size_bytes) for each in addresses)


def _is_sound(descriptor: int, offset: int, size_bytes: int) -> bool:
    """Tell whether the objects of a heap follow each other to its end."""
    head = _aligned(8 + size_bytes)  # of the heap, and of each object in it
    file_bytes = os.fstat(descriptor).st_size
    if offset + head > file_bytes:
        return False
    start = os.pread(descriptor, head, offset)
    size = number_in(start[8 : 8 + size_bytes])
    if start[:4] != _SIGNATURE or offset + size > file_bytes:
        return False
    heap, begin = os.pread(descriptor, size, offset), head
    while begin + head <= size:
        step = number_in(heap[begin + 8 : begin + 8 + size_bytes])
        if number_in(heap[begin : begin + 2]) != 0:  # 0: free space, whose size includes its head
            step = head + _aligned(step)
        if not 0 < step <= size - begin:
            return False
        begin += step
    return True


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
