"""PyTorch's tensors in files from strangers, as NumPy arrays: nothing in the file can run.

The pickles are read by `system.safe_unpickler`, what lies around them by `system.torch_layout`;
PyTorch's own reader has no part in this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from system.torch_layout import StorageOf, require

BFLOAT16 = np.dtype("V2")  # its bits: NumPy does not have the type
_MOST_DIMENSIONS, _LARGEST_NUMBER = 32, 2**60

VALUE_TYPES = {
    f"{name}Storage": np.dtype(code)
    for name, code in {
        **{"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "V2", "Bool": "?"},
        **{"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1"},
    }.items()
}


@dataclass(frozen=True)
class Storage:
    """The flat values that tensors are views of: no array, as a pickle could make itself."""

    values: np.ndarray


def storage_of_pid(pid: Any, storage_of: StorageOf) -> Storage:
    """Return the storage that a pickle names, by `("storage", type, key, device, count)`."""
    name, dtype, key, _device, count = pid[:5]
    require(name == "storage" and set(pid[5:]) <= {None}, "a storage of an unknown kind")
    require(isinstance(dtype, np.dtype) and type(key) is str, "a storage without a type")
    require(type(count) is int and count >= 0, "a storage of an impossible size")
    return Storage(storage_of(dtype.itemsize, key, count).view(dtype))


def rebuild_tensor(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Return a pickled tensor as an array, for `torch._utils._rebuild_tensor_v2`.

    Raises UnpicklingError for one that leaves its storage, or repeats values in memory: a short
    file could claim a huge one.
    """
    require(type(storage) is Storage, "a tensor without values")
    values = storage.values
    is_shape = type(size) is type(stride) is tuple and len(size) == len(stride)
    require(is_shape and len(size) <= _MOST_DIMENSIONS, "a tensor's shape")
    numbers = (offset, *size, *stride)
    are_whole = all(type(one) is int and 0 <= one < _LARGEST_NUMBER for one in numbers)
    require(are_whole, "a tensor's place")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    require(0 in size or last < len(values), "a tensor outside its storage")
    require(math.prod(size) <= len(values), "a tensor larger than its storage")
    if 0 in size:
        return np.zeros(size, values.dtype)
    steps = [step * values.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps)


def rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    """Return a pickled parameter's values, for `torch._utils._rebuild_parameter`."""
    return data
