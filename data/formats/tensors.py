"""PyTorch's tensors in files from strangers, as NumPy arrays: nothing in the file can run.

`torch.save` writes a zip archive, with a pickle and a file for each storage of values. Before
PyTorch 1.6 it wrote pickles one after another, and then the storages; so it still does within
`pickle.dump`. The pickles are read by `data.formats.safe_pickle`, and sizes are held against
the file's, so that PyTorch's own reader has no part in this.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile

import numpy as np

ZIP_START = b"PK\x03\x04"  # of a file that torch.save wrote
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of one by PyTorch before 1.6


@dataclass(frozen=True)
class ValueType:
    """What a storage holds: NumPy's type, or bfloat16, which NumPy does not have, as its bits."""

    dtype: np.dtype
    is_brain_float: bool = False


VALUE_TYPES = {
    **{
        f"{name}Storage": ValueType(np.dtype(code))
        for name, code in {
            **{"Double": "<f8", "Float": "<f4", "Half": "<f2", "Bool": "?"},
            **{"Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1"},
        }.items()
    },
    "BFloat16Storage": ValueType(np.dtype("<u2"), is_brain_float=True),
}

StorageOf = Callable[[ValueType, str, int], np.ndarray]  # by type, key and number of values
Unpickle = Callable[[BinaryIO, StorageOf | None], Any]


def require(condition: bool, complaint: str) -> None:
    """Raise UnpicklingError with `complaint` unless `condition` holds."""
    if not condition:
        raise pickle.UnpicklingError(complaint)


@dataclass(frozen=True)
class Storage:
    """The flat values that tensors are views of."""

    kind: ValueType
    values: np.ndarray

    @classmethod
    def named(cls, pid: Any, storage_of: StorageOf) -> Storage:
        """Return the storage that a pickle names, `("storage", type, key, device, count)`."""
        name, kind, key, _device, count = pid[:5]
        require(name == "storage" and set(pid[5:]) <= {None}, "a storage of an unknown kind")
        require(isinstance(kind, ValueType) and type(key) is str, "a storage without a type")
        require(type(count) is int and count >= 0, "a storage of an impossible size")
        return cls(kind, storage_of(kind, key, count))


def read_zip(path: Path, unpickle: Unpickle) -> Any:
    """Return what is in a zip archive of `torch.save`; raises any exception for another one."""
    with ZipFile(path) as archive:
        files = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        are_plain = all(info.compress_type == ZIP_STORED for info in files.values())
        total = sum(info.file_size for info in files.values())
        require(are_plain and total <= path.stat().st_size, "no zip archive of PyTorch")
        is_big_endian = "byteorder" in files and archive.read(files["byteorder"]) == b"big"
        require(not is_big_endian, "numbers of another byte order")
        storages: dict[str, np.ndarray] = {}

        def storage_of(kind: ValueType, key: str, count: int) -> np.ndarray:
            if key not in storages:
                storages[key] = np.frombuffer(archive.read(files[f"data/{key}"]), kind.dtype)
            return _of_size(storages[key], kind, count)

        return unpickle(io.BytesIO(archive.read(files["data.pkl"])), storage_of)


def read_legacy(file: io.BytesIO | io.BufferedReader, size: int, unpickle: Unpickle) -> Any:
    """Return what follows LEGACY_MAGIC in a file of `size` bytes; raises any exception."""
    unpickle(file, None)  # the format's version
    unpickle(file, None)  # of the machine
    start = file.tell()
    storages: dict[str, np.ndarray] = {}

    def storage_of(kind: ValueType, key: str, count: int) -> np.ndarray:
        if key not in storages:
            total = sum(values.nbytes for values in storages.values())
            require(total + count * kind.dtype.itemsize <= size, "more values than there are")
            storages[key] = np.zeros(count, kind.dtype)
        return _of_size(storages[key], kind, count)

    unpickle(file, storage_of)  # which says how large they are: they come behind
    for key in unpickle(file, None):
        count = int.from_bytes(file.read(8), "little")
        values = _of_size(storages[key], None, count)
        require(file.readinto(values.data.cast("B")) == values.nbytes, "fewer values than claimed")
    file.seek(start)
    return unpickle(file, storage_of)


def _of_size(values: np.ndarray, kind: ValueType | None, count: int) -> np.ndarray:
    is_same = len(values) == count and (kind is None or values.dtype == kind.dtype)
    require(is_same, f"a storage of {len(values)} values, expected {count}")
    return values


def rebuild_tensor(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Return a pickled tensor as an array, for `torch._utils._rebuild_tensor_v2`.

    One that leaves its storage, or repeats values in memory, is refused: a short file could
    claim a huge one.
    """
    require(type(storage) is Storage, "a tensor without values")
    require(type(size) is type(stride) is tuple and len(size) == len(stride) <= 32, "a shape")
    are_whole = all(type(one) is int and 0 <= one < 2**60 for one in (offset, *size, *stride))
    require(are_whole, "a tensor's place")
    values = storage.values
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    is_inside = 0 in size or (last < len(values) and math.prod(size) <= len(values))
    require(is_inside, "a tensor larger than its storage")
    if 0 in size:
        array = np.zeros(size, values.dtype)
    else:
        steps = [step * values.itemsize for step in stride]
        array = np.lib.stride_tricks.as_strided(values[offset:], size, steps)
    return (array.astype("<u4") << 16).view("<f4") if storage.kind.is_brain_float else array


def rebuild_parameter(array: np.ndarray, *_: Any) -> np.ndarray:
    """Return a pickled parameter's values, for `torch._utils._rebuild_parameter`."""
    return array
