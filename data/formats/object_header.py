"""Reading the bytes of a dataset's header, without the HDF5 library.

On opening a virtual dataset, the library trusts the file about the number of its sources, and
allocates memory for them: a damaged file of 8 kB took 5 GB. For the format of headers see the HDF5
File Format Specification, IV.A "Data Object Headers".
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from h5py import h5f, h5l

LAYOUT = 0x08  # a type of messages
_CONTINUATION = 0x10
_FIRST_WITH_VIRTUAL, _VIRTUAL = 4, 3  # version of the layout message, and its class
_MAX_BLOCKS, _MAX_BYTES = 64, 2**20  # a .csd file's headers are one block of some hundred bytes
_READ_AT_ONCE = 2**10
_IS_SHARED = 2  # flag of a message whose body has only its address


class HeaderReader:
    """Reads the headers of an HDF5 file's objects; `base` is the offset of address 0."""

    def __init__(self, file: h5f.FileID) -> None:
        settings = file.get_create_plist()
        self.base, self.widths = settings.get_userblock(), settings.get_sizes()
        self.descriptor = file.get_vfd_handle()

    def is_virtual(self, link: h5l.LinkInfo) -> bool:
        """Tell whether the object of a hard link is a virtual dataset.

        Raises OSError when its header is larger, or has more parts, than any valid one.
        """
        return any(
            kind == LAYOUT and body[0] >= _FIRST_WITH_VIRTUAL and body[1] == _VIRTUAL
            for kind, _, body in self._messages(link.u)
            if len(body) > 1
        )

    def messages(self, address: int) -> dict[int, bytes]:
        """Return an object's first message of each type; empty if it is stored elsewhere.

        Raises OSError as `is_virtual` does.
        """
        bodies: dict[int, bytes] = {}
        for kind, flags, body in self._messages(address):
            bodies.setdefault(kind, b"" if flags & _IS_SHARED else body)
        return bodies

    def _messages(self, address: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield the type, the flags and the body of each message of a header."""
        start = os.pread(self.descriptor, _READ_AT_ONCE, self.base + address)
        is_new = start[:4] == b"OHDR"
        flags = start[5] if is_new and len(start) > 5 else 0
        if is_new:
            begin = 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)  # times, attributes
            width = 1 << (flags & 3)
            size, begin = number_in(start[begin : begin + width]), begin + width
            type_bytes, head = 1, 4 + 2 * bool(flags & 4)  # with a creation order
        else:
            size, begin, type_bytes, head = number_in(start[8:12]), 16, 2, 8
        blocks = [start[begin : begin + size]]
        if len(blocks[0]) < size:
            blocks = [self._read(size, address + begin)]
        seen = set[int]()
        for block in blocks:
            begin = 0
            while begin + head <= len(block):
                kind = number_in(block[begin : begin + type_bytes])
                size = number_in(block[begin + type_bytes : begin + type_bytes + 2])
                body = block[begin + head : begin + head + size]
                yield kind, block[begin + type_bytes + 2], body
                begin += head + size
                if kind == _CONTINUATION:
                    width = self.widths[0]
                    address = number_in(body[:width])
                    size = number_in(body[width : sum(self.widths)])
                    if len(blocks) == _MAX_BLOCKS or address in seen:
                        raise OSError("a header in too many parts")
                    seen.add(address)
                    content = self._read(size, address)
                    blocks.append(content[4:-4] if is_new else content)  # signature, checksum

    def _read(self, size: int, address: int) -> bytes:
        if size > _MAX_BYTES:
            raise OSError(f"a header of {size:,} bytes")
        return os.pread(self.descriptor, size, self.base + address)


def number_in(content: bytes) -> int:
    """Return a number as HDF5 stores it."""
    return int.from_bytes(content, "little")
