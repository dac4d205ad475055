"""PyTorch's tensors in files from strangers, as NumPy arrays: nothing in the file can run.

The pickles are read by `data.formats.safe_pickle`, what lies around them by `system.torch_layout`;
PyTorch's own reader has no part in this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from system.torch_layout import StorageOf, check_view, require, storage_named


@dataclass(frozen=True)
class ValueType:
    """What a storage holds: NumPy's type, or bfloat16, which NumPy does not have, as its bits."""

    dtype: np.dtype
    is_brain_float: bool = False


VALUE_TYPES = {
    **{
        f"{name}Storage": ValueType(np.dtype(code))
        for name, code in {
            **{"Double": "f8", "Float": "f4", "Half": "f2", "Bool": "?"},
            **{"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1"},
        }.items()
    },
    "BFloat16Storage": ValueType(np.dtype("u2"), is_brain_float=True),
}


@dataclass(frozen=True)
class Storage:
    """The flat values that tensors are views of."""

    kind: ValueType
    values: np.ndarray

    @classmethod
    def named(cls, pid: Any, storage_of: StorageOf) -> Storage:
        """Return the storage that a pickle names."""
        kind, key, count = storage_named(pid, ValueType)
        return cls(kind, storage_of(kind.dtype.itemsize, key, count).view(kind.dtype))


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
    return (array.astype("u4") << 16).view("f4") if storage.kind.is_brain_float else array


def rebuild_parameter(array: np.ndarray, *_: Any) -> np.ndarray:
    """Return a pickled parameter's values, for `torch._utils._rebuild_parameter`."""
    return array
