"""Reading the bytes of a dataset's header, without the HDF5 library.

On opening, the library takes the file's word for how many sources a virtual dataset has, and takes
memory for them: 8 kB of a damaged file took 5 GB. Headers are those of the HDF5 File Format
Specification, IV.A "Data Object Headers".
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from h5py import h5f, h5l

LAYOUT = 0x08  # a type of messages
_CONTINUATION = 0x10
_FIRST_WITH_VIRTUAL, _VIRTUAL = 4, 3  # versions of the layout message, and its class
_MOST_BLOCKS, _MOST_BYTES = 64, 2**20  # a .csd file's headers are one block of some hundred bytes
_READ_AT_ONCE = 2**10
_IS_SHARED = 2  # a message whose body says where it is


class HeaderReader:
    """Reads the headers of an HDF5 file's objects; `base` is where its addresses begin."""

    def __init__(self, file: h5f.FileID) -> None:
        settings = file.get_create_plist()
        self.base, self.widths = settings.get_userblock(), settings.get_sizes()
        self.descriptor = file.get_vfd_handle()

    def is_virtual(self, link: h5l.LinkInfo) -> bool:
        """Tell whether the object of a hard link is a virtual dataset.

        Raises OSError when its header is larger, or in more parts, than any sound one.
        """
        return any(
            kind == LAYOUT and body[0] >= _FIRST_WITH_VIRTUAL and body[1] == _VIRTUAL
            for kind, _, body in self._messages(link.u)
            if len(body) > 1
        )

    def messages(self, link: h5l.LinkInfo) -> dict[int, bytes]:
        """Return the first message of each type in a header, but for those that are elsewhere.

        Raises OSError as `is_virtual` does.
        """
        found: dict[int, bytes] = {}
        for kind, flags, body in self._messages(link.u):
            found.setdefault(kind, b"" if flags & _IS_SHARED else body)
        return found

    def _messages(self, address: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield the type, the flags and the body of each message of a header."""
        start = os.pread(self.descriptor, _READ_AT_ONCE, self.base + address)
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
            blocks = [self._read(size, address + place)]
        seen = set[int]()
        for block in blocks:
            place = 0
            while place + head <= len(block):
                kind = _number(block[place : place + type_bytes])
                size = _number(block[place + type_bytes : place + type_bytes + 2])
                body = block[place + head : place + head + size]
                yield kind, block[place + type_bytes + 2], body
                place += head + size
                if kind == _CONTINUATION:
                    width = self.widths[0]
                    where, length = _number(body[:width]), _number(body[width : sum(self.widths)])
                    if len(blocks) == _MOST_BLOCKS or where in seen:
                        raise OSError("a header in too many parts")
                    seen.add(where)
                    more = self._read(length, where)
                    blocks.append(more[4:-4] if is_new else more)  # a signature, a checksum

    def _read(self, size: int, address: int) -> bytes:
        if size > _MOST_BYTES:
            raise OSError(f"a header of {size:,} bytes")
        return os.pread(self.descriptor, size, self.base + address)


def _number(content: bytes) -> int:
    return int.from_bytes(content, "little")
