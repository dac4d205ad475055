"""Decompressing what gzip made, never beyond the size that is expected."""

from __future__ import annotations

import zlib
from collections.abc import Callable

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
        values = decompress(content, size)
    except _ERRORS as error:  # damaged, or longer
        raise OSError(complaint) from error
    if len(values) != size:
        raise OSError(complaint)
    return values


def decompress_with_zlib(content: bytes | memoryview, size: int) -> bytes:
    """Return at most one byte more than `size` of what a zlib stream holds."""
    stream = zlib.decompressobj()
    values = stream.decompress(content, size + 1)
    return values if stream.eof else b""


decompress: Callable[[bytes | memoryview, int], bytes | bytearray]
_ERRORS: tuple[type[Exception], ...]
try:  # libdeflate, in about half of zlib's time
    import deflate

    decompress, _ERRORS = deflate.zlib_decompress, (deflate.DeflateError, zlib.error)
except ImportError:  # as where it would have to be compiled, and cannot be
    decompress, _ERRORS = decompress_with_zlib, (zlib.error,)
