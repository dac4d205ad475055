"""The layout of a dataset in its file: shape, type, and where the values are.

For a dataset as the CMU SDK writes it, this is read from the bytes of its header, in a fifth of the
time that the HDF5 library takes to open it. For others, and for each new type, the library is used.
See the HDF5 File Format Specification, IV.A.2 "Data Object Header Messages".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from h5py import h5d, h5t, h5z

from data.formats.chunk_index import ChunkIndex, index_by_library, index_in_tree
from data.formats.hdf5_objects import checked_filters
from data.formats.object_header import LAYOUT, HeaderReader

_SPACE, _TYPE, _EXTERNAL, _FILTERS = 0x01, 0x03, 0x07, 0x0B  # types of messages
# Versions (and classes) of messages; the library reads newer versions, which have checksums.
_SPACE_VERSION, _CONTIGUOUS, _CHUNKED = 1, (3, 1), (3, 2)
_WIDTHS, _UNDEFINED = (8, 8), 2**64 - 1  # bytes of an address, and of a size; no address


@dataclass(frozen=True)
class StoredType:
    """The type of a dataset's values, and the filters of its chunks."""

    stored_as: h5t.TypeID
    read_as: h5t.TypeID  # as NumPy stores them
    dtype: np.dtype
    item_bytes: int
    is_plain: bool  # NumPy can use the stored bytes as they are
    filters: list[int]  # in the order of writing


@dataclass(frozen=True)
class Layout:
    """The layout of a dataset in its file."""

    shape: tuple[int, ...]
    type: StoredType
    offset: int | None  # of the values, if they are in one piece
    chunk_shape: tuple[int, ...] | None
    find_chunks: Callable[[], ChunkIndex]
    dataset: h5d.DatasetID | None  # if the library has opened it


class Layouts:
    """Finds the layouts of a file's datasets."""

    def __init__(self, headers: HeaderReader) -> None:
        self._headers = headers
        self._types: dict[tuple[bytes | None, ...], StoredType] = {}  # by `_type_messages`

    def in_header(self, messages: dict[int, bytes]) -> Layout | None:
        """Read a layout from a dataset's header messages; None if the library has to read it."""
        stored = self._types.get(_type_messages(messages))
        return None if stored is None else self._in_header(messages, stored)

    def _in_header(self, messages: dict[int, bytes], stored: StoredType) -> Layout | None:
        if _EXTERNAL in messages or self._headers.widths != _WIDTHS:
            return None
        try:
            space, layout, base = messages[_SPACE], messages[LAYOUT], self._headers.base
            version, rank = space[:2]
            shape, kind = struct.unpack_from(f"<{rank}Q", space, 8), tuple(layout[:2])
            (address,) = struct.unpack_from("<Q", layout, 2 if kind == _CONTIGUOUS else 3)
            is_usual = version == _SPACE_VERSION and kind in (_CONTIGUOUS, _CHUNKED)
            if not is_usual or address == _UNDEFINED:
                return None
            if kind == _CONTIGUOUS:
                return Layout(shape, stored, base + address, None, dict, None)
            *chunk_shape, item_bytes = struct.unpack_from(f"<{rank + 1}I", layout, 11)
            if layout[2] != rank + 1 or item_bytes != stored.item_bytes or not all(chunk_shape):
                return None
        except (struct.error, LookupError, ValueError):
            return None
        chunks = math.prod(-(-n // size) for n, size in zip(shape, chunk_shape, strict=True))
        find = partial(index_in_tree, self._headers.descriptor, base, address, rank, chunks)
        return Layout(shape, stored, None, tuple(chunk_shape), find, None)

    def by_library(self, dataset: h5d.DatasetID, messages: dict[int, bytes], where: str) -> Layout:
        """Ask the library for a layout, and keep the type for datasets with equal type messages.

        Raises InputError, which begins with `where`, if values are not in the file.
        """
        settings = dataset.get_create_plist()
        filters = checked_filters(settings, where)
        stored_as = dataset.get_type()
        dtype, item_bytes = stored_as.dtype, stored_as.get_size()
        if dtype.kind == "O":  # length (4 bytes), address and index (4 bytes) of the text
            item_bytes = 8 + self._headers.widths[0]
        read_as = h5t.py_create(dtype)
        if dtype.kind == "S":  # HDF5 converts no text to another encoding
            read_as.set_cset(stored_as.get_cset())
        is_plain = read_as == stored_as
        stored_type = StoredType(stored_as, read_as, dtype, item_bytes, is_plain, filters)
        is_usual = is_plain and dtype.kind != "O" and h5z.FILTER_FLETCHER32 not in filters
        key = _type_messages(messages)
        if is_usual and key[0] and key[1] != b"":
            self._types[key] = stored_type
        offset = dataset.get_offset()  # None unless in one piece
        chunk_shape = settings.get_chunk() if settings.get_layout() == h5d.CHUNKED else None
        # The library reads a damaged index, whose nodes may hold each other, without end.
        read = self._in_header(messages, stored_type)
        find = partial(index_by_library, dataset) if read is None else read.find_chunks
        return Layout(dataset.shape or (), stored_type, offset, chunk_shape, find, dataset)


def _type_messages(messages: dict[int, bytes]) -> tuple[bytes | None, ...]:
    return messages.get(_TYPE), messages.get(_FILTERS)
