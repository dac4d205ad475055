"""Decompressing zlib streams, never beyond the expected size."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress

_MAX_EXPANSION = 1032  # 258 bytes for two bits, the limit of the format


def inflate(content: bytes | memoryview, size: int) -> bytes | bytearray:
    """Return the `size` bytes that a zlib stream holds; bytes after the stream are ignored.

    Never allocates more memory than the stream can fill. Other threads run meanwhile. Raises
    OSError when the stream is damaged, or holds fewer or more bytes.
    """
    values: bytes | bytearray | None = None
    if size <= _MAX_EXPANSION * len(content):
        with suppress(*_ERRORS):  # damaged, or longer
            values = decompress(content, size)
    if values is None or len(values) != size:
        raise OSError(f"a chunk does not hold {size} bytes")
    return values


def decompress_with_zlib(content: bytes | memoryview, size: int) -> bytes:
    """Return the content of a zlib stream; b"" if it is incomplete, or longer than `size` + 1."""
    stream = zlib.decompressobj()
    values = stream.decompress(content, size + 1)
    return values if stream.eof else b""


decompress: Callable[[bytes | memoryview, int], bytes | bytearray]
_ERRORS: tuple[type[Exception], ...]
try:  # libdeflate takes about half of zlib's time
    import deflate

    decompress, _ERRORS = deflate.zlib_decompress, (deflate.DeflateError, zlib.error)
except ImportError:  # not installed, such as where it cannot be compiled
    decompress, _ERRORS = decompress_with_zlib, (zlib.error,)
