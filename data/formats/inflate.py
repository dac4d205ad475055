"""Decompressing what gzip made, never beyond the size that is expected."""

from __future__ import annotations

import zlib

_MOST_EXPANSION = 1032  # 258 bytes for two bits: more than any stream can become


def inflate(content: bytes, size: int) -> bytes | bytearray:
    """Return the `size` bytes that a zlib stream holds; what follows it is ignored.

    No more memory is asked for than the stream can fill. Other threads run meanwhile. Raises
    OSError when the stream is damaged, or holds fewer or more.
    """
    if size <= _MOST_EXPANSION * len(content):
        try:
            values = decompress(content, size)
        except DeflateError:  # damaged, or longer
            values = b""
        if len(values) == size:
            return values
    raise OSError(f"a chunk does not hold {size} bytes")


def decompress_with_zlib(content: bytes, size: int) -> bytes:
    """Return at most one byte more than `size` of what a zlib stream holds."""
    stream = zlib.decompressobj()
    try:
        values = stream.decompress(content, size + 1)
    except zlib.error as error:
        raise DeflateError(str(error)) from error
    return values if stream.eof else b""


try:  # libdeflate, in about half of zlib's time
    from deflate import DeflateError
    from deflate import zlib_decompress as decompress
except ImportError:  # as where it would have to be compiled, and cannot be
    DeflateError = zlib.error
    decompress = decompress_with_zlib
