"""PyTorch's tensors in files from strangers, as NumPy arrays: nothing in the file can run.

The pickles are read by `data.formats.safe_pickle`, what lies around them by `system.torch_layout`;
PyTorch's own reader has no part in this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from system.torch_layout import StorageOf, check_view, require, storage_named

_BFLOAT16 = np.dtype("V2")  # its bits: NumPy does not have the type

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
    """Return the storage that a pickle names."""
    dtype, key, count = storage_named(pid, np.dtype)
    return Storage(storage_of(dtype.itemsize, key, count).view(dtype))


def rebuild_tensor(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Return a pickled tensor as an array, for `torch._utils._rebuild_tensor_v2`."""
    require(type(storage) is Storage, "a tensor without values")
    values = storage.values
    check_view(values, offset, size, stride)
    if 0 in size:
        array = np.zeros(size, values.dtype)
    else:
        steps = [step * values.itemsize for step in stride]
        array = np.lib.stride_tricks.as_strided(values[offset:], size, steps)
    if array.dtype == _BFLOAT16:
        array = (array.view("u2").astype("u4") << 16).view("f4")
    return array
