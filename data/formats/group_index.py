"""The index of the names in a group of an HDF5 file.

The library walks through it, and trusts it: a damaged file of 12 kB, whose nodes hold each other
many times, made this a walk without end.
"""

from __future__ import annotations

import os
import struct

from data.formats.object_header import HeaderReader, number_in

_SYMBOL_TABLE = 0x11  # the message with the address of the index; newer groups have none


def check_group_index(headers: HeaderReader, group: int) -> None:
    """Raise OSError if a part of the index of the group at this address is in it twice.

    It is a "Version 1 B-tree" of the HDF5 File Format Specification, III.A.1.
    """
    table = headers.messages(group).get(_SYMBOL_TABLE, b"")
    address_bytes, key_bytes = headers.widths
    begin, step = 8 + 2 * address_bytes, key_bytes + address_bytes
    nodes = [number_in(table[:address_bytes])] if table else []
    seen = set(nodes)
    for node in nodes:
        start = os.pread(headers.descriptor, 8, headers.base + node)
        _, _, level, used = struct.unpack("<4sBBH", start.ljust(8))
        if level == 0:
            continue
        entries = os.pread(headers.descriptor, used * step, headers.base + node + begin)
        parts = [entries[place : place + step] for place in range(0, len(entries), step)]
        children = [number_in(part[key_bytes:]) for part in parts]
        if len({*children}) < len(children) or not seen.isdisjoint(children):
            raise OSError("the index of its names is damaged")
        seen.update(children)
        nodes += children
