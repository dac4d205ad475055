"""Reading pickles of NumPy arrays from untrusted sources: no code in the file can run.

`system.safe_unpickler` ensures this.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from system import pickled_arrays
from system.errors import InputError, first_line
from system.file_kind import refuse_unread
from system.pickle_bounds import check_key, check_size
from system.safe_unpickler import KNOWN, RefusedName, SafeUnpickler
from system.torch_layout import (
    LEGACY_MAGIC,
    ZIP_START,
    StorageOf,
    read_legacy,
    read_zip,
    require,
)


def load(path: Path) -> Any:
    """Return the content of the pickle at `path`, of any pickle protocol.

    Plain Python values, NumPy arrays and NumPy numbers are read, as NumPy 1, NumPy 2 and
    Python 2 write them. An `OrderedDict` comes back as a dict, a bytearray of protocol 5
    and a `str` of Python 2 (whose encoding is unknown) as bytes, a PyTorch tensor as an array.
    Files that `torch.save` wrote are read too.

    Raises InputError if the file names anything else (no code has run then), is no complete
    pickle, or cannot be opened.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: is a pipe or a device, expected a file; check the path")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = _content(file)
        check_size(content, size)
        return content
    except RefusedName as error:
        raise InputError(
            f"{path}: holds {error}, which could run code when loaded; only NumPy arrays and plain "
            "Python values are read. Nothing was run: get the file from a source you trust, or "
            "save it with plain arrays only"
        ) from error
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error
    except Exception as error:  # Damaged bytes can fail in any way.
        advice = "check that this is the right file, and download it anew"
        refuse_unread(error, path, "a complete pickle of NumPy arrays and plain values", advice)


def _content(file: io.BufferedReader) -> Any:
    if file.read(4) == ZIP_START:
        return read_zip(file, _unpickle_within_torch)
    file.seek(0)
    content = _Unpickler(file).load()
    return read_legacy(file, _unpickle_within_torch) if _is_magic(content) else content


def _unpickle_within_torch(part: BinaryIO, storage_of: StorageOf | None) -> Any:
    return _UnpicklerWithinTorch(part, storage_of).load()


def _is_magic(content: Any) -> bool:
    return type(content) is int and content == LEGACY_MAGIC  # an array cannot be compared


def _ordered_dict(items: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    """Return a dict of keys and values, which Python 2 pickles as a list of pairs."""
    pairs = list(items)
    for key, _ in pairs:
        check_key(key)
    return dict(pairs)


def _tensor_as_array(*arguments: Any) -> np.ndarray:
    """Return a tensor as an array; bfloat16, which NumPy lacks, becomes float32."""
    array = pickled_arrays.rebuild_tensor(*arguments)
    if array.dtype != pickled_arrays.BFLOAT16:
        return array
    wide = np.empty(array.shape, "f4")
    np.left_shift(array.view("u2"), 16, out=wide.view("u4"), dtype="u4")
    return wide


def _storage_from_bytes(content: bytes) -> pickled_arrays.Storage:
    """Return the storage that a pickled tensor holds, `torch.storage._load_from_bytes`."""
    require(type(content) is bytes, "a tensor without bytes")
    file = io.BytesIO(content)
    require(_is_magic(_unpickle_within_torch(file, None)), "a storage of another kind")
    storage: pickled_arrays.Storage = read_legacy(file, _unpickle_within_torch)
    return storage


class _UnpicklerWithinTorch(SafeUnpickler):
    text_encoding = "bytes"
    known: ClassVar[dict[tuple[str, str], Any]] = {
        **KNOWN,
        ("numpy", "ndarray"): pickled_arrays.NDARRAY,
        ("collections", "OrderedDict"): _ordered_dict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor_as_array,
    }
    for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2
        known[f"{_core}.multiarray", "_reconstruct"] = pickled_arrays.reconstruct
        known[f"{_core}.multiarray", "scalar"] = pickled_arrays.scalar
        known[f"{_core}.numeric", "_frombuffer"] = pickled_arrays.from_buffer


class _Unpickler(_UnpicklerWithinTorch):
    # Not within a PyTorch file, which has none: each level of nesting would double the time.
    known: ClassVar[dict[tuple[str, str], Any]] = {
        **_UnpicklerWithinTorch.known,
        ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    }
