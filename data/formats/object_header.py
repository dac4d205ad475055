"""Telling a virtual dataset from the bytes of its header, before the HDF5 library opens it.

On opening, the library takes the file's word for how many sources such a dataset has, and takes
memory for them: 8 kB of a damaged file took 5 GB. Headers are those of the HDF5 File Format
Specification, IV.A "Data Object Headers".
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from h5py import h5f, h5l

_LAYOUT, _CONTINUATION = 0x08, 0x10  # types of messages
_FIRST_WITH_VIRTUAL, _VIRTUAL = 4, 3  # versions of the layout message, and its class
_MOST_BLOCKS, _MOST_BYTES = 64, 2**20  # a .csd file's headers are one block of some hundred bytes
_READ_AT_ONCE = 2**10


class HeaderReader:
    """Reads the headers of an HDF5 file's objects."""

    def __init__(self, file: h5f.FileID) -> None:
        settings = file.get_create_plist()
        self._base, self._widths = settings.get_userblock(), settings.get_sizes()
        self._descriptor = file.get_vfd_handle()

    def is_virtual(self, link: h5l.LinkInfo) -> bool:
        """Tell whether the object of a hard link is a virtual dataset.

        Raises OSError when its header is larger, or in more parts, than any sound one.
        """
        return any(
            kind == _LAYOUT and body[0] >= _FIRST_WITH_VIRTUAL and body[1] == _VIRTUAL
            for kind, body in _messages(self._descriptor, self._base, link.u, self._widths)
            if len(body) > 1
        )


def _messages(
    descriptor: int, base: int, address: int, widths: tuple[int, int]
) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the body of each message of a header.

    Addresses are from `base` on; `widths` are the bytes of an address, and of a size.
    """
    start = os.pread(descriptor, _READ_AT_ONCE, base + address)
    is_new = start[:4] == b"OHDR"
    flags = start[5] if is_new and len(start) > 5 else 0
    if is_new:
        place = 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)  # times, attributes
        width = 1 << (flags & 3)
        size, place = _number(start[place : place + width]), place + width
        type_bytes, head = 1, 4 + 2 * bool(flags & 4)  # an order
    else:
        size, place, type_bytes, head = _number(start[8:12]), 16, 2, 8
    blocks = [start[place : place + size]]
    if len(blocks[0]) < size:
        blocks = [_read(descriptor, size, base + address + place)]
    for block in blocks:
        place = 0
        while place + head <= len(block):
            kind = _number(block[place : place + type_bytes])
            size = _number(block[place + type_bytes : place + type_bytes + 2])
            body = block[place + head : place + head + size]
            yield kind, body
            place += head + size
            if kind == _CONTINUATION:
                if len(blocks) == _MOST_BLOCKS:
                    raise OSError("a header in too many parts")
                where, length = _number(body[: widths[0]]), _number(body[widths[0] : sum(widths)])
                more = _read(descriptor, length, base + where)
                blocks.append(more[4:-4] if is_new else more)  # a signature, a checksum


def _read(descriptor: int, size: int, place: int) -> bytes:
    if size > _MOST_BYTES:
        raise OSError(f"a header of {size:,} bytes")
    return os.pread(descriptor, size, place)


def _number(content: bytes) -> int:
    return int.from_bytes(content, "little")
