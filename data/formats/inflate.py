"""Decompressing what gzip made, never beyond the size that is expected."""

from __future__ import annotations

import zlib

import deflate

_MOST_EXPANSION = 1032  # 258 bytes for two bits: more than any stream can become


def inflate(content: bytes | memoryview, size: int) -> bytes | bytearray:
    """Return the `size` bytes that a zlib stream holds; what follows it is ignored.

    No more memory is asked for than the stream can fill. Other threads run meanwhile. Raises
    OSError when the stream is damaged, or holds fewer or more.
    """
    complaint = f"a chunk does not hold {size} bytes"
    if size > _MOST_EXPANSION * len(content):
        raise OSError(complaint)
    try:
        values = deflate.zlib_decompress(content, size)  # in about half of zlib's time
    except (deflate.DeflateError, zlib.error) as error:  # damaged, or longer
        raise OSError(complaint) from error
    if len(values) != size:
        raise OSError(complaint)
    return values
