"""Safe replacements for the functions that make arrays and tensors in strangers' pickles.

Each checks all sizes. `system.safe_unpickler` reads the pickles; PyTorch's tensors become NumPy
arrays. `system.torch_layout` reads the file around a pickle; PyTorch's own reader is not used.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from system.torch_layout import StorageOf, require

# Booleans, whole and floating-point numbers, bytes, text, and arrays of Python objects, as
# NumPy names them in a pickle. Structured types are refused: forged offsets in one would read
# memory outside the array.
_TYPE_CODE = re.compile(r"b1|[iu][1248]|f[248]|[SU]\d+|O[48]")

# Replaces the class numpy.ndarray: a marker to compare with, not to call.
NDARRAY = object()

BFLOAT16 = np.dtype("V2")  # its bits: NumPy lacks the type
_MAX_DIMENSIONS, _LARGEST_NUMBER = 32, 2**60

VALUE_TYPES = {
    f"{name}Storage": np.dtype(code)
    for name, code in {
        **{"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "V2", "Bool": "?"},
        **{"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1"},
    }.items()
}


def _as_text(value: str | bytes) -> str:
    """Return one of NumPy's own ASCII words, which a Python 2 pickle holds as bytes."""
    require(type(value) in (str, bytes), f"a {type(value).__name__} for one of NumPy's words")
    return value.decode("ascii") if isinstance(value, bytes) else value


class ArrayType:
    """Replaces a NumPy dtype: made from its code; `set_state` then sets its byte order."""

    def __init__(self, code: str | bytes, *_align_and_copy: object) -> None:
        code = _as_text(code)
        require(_TYPE_CODE.fullmatch(code) is not None, f"a NumPy type {code!r}")
        self.dtype = np.dtype(code[0] if code[0] == "O" else code)

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Set the byte order from the state in the pickle, which may contain nothing else."""
        _version, order, subarray, names, fields = state[:5]
        require(subarray is names is fields is None, "a structured NumPy type")
        order = _as_text(order)
        require(order in ("<", ">", "|", "="), f"a NumPy byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(cast('Literal["<", ">", "|", "="]', order))


def reconstruct(kind: object, _shape: object, _code: str | bytes) -> np.ndarray:
    """Return an empty array, which `set_array_state` then gives its content."""
    require(kind is NDARRAY, "an array class other than numpy.ndarray")
    return np.empty(0)


def set_array_state(array: np.ndarray, state: tuple[Any, ...]) -> None:
    """Give `array` the shape, type and content that NumPy put in the pickle.

    The size is checked before any memory is asked for: a short file cannot claim a huge array.
    """
    _version, shape, kind, is_fortran, content = state
    _check_content(content, kind.dtype, shape)
    full_state = (1, shape, kind.dtype, bool(is_fortran), content)
    array.__setstate__(full_state)  # type: ignore[arg-type]  # the stubs want NumPy's own bool


def _check_content(content: bytes | list[Any], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    require(type(content) is (list if dtype.hasobject else bytes), "an array without content")
    is_shape = type(shape) is tuple and len(shape) <= _MAX_DIMENSIONS
    is_shape = is_shape and all(type(size) is int and 0 <= size < 2**63 for size in shape)
    require(is_shape, "an array's shape")
    # A file without content could claim any number of such items.
    require(dtype.itemsize > 0 or math.prod(shape) <= 1, "an array of items without bytes")
    expected = math.prod(shape) * (1 if dtype.hasobject else dtype.itemsize)
    size = len(content)
    require(size == expected, f"an array of {expected} bytes or items, but the file has {size}")
    if dtype.kind == "U" and content and isinstance(content, bytes):
        # NumPy accepts such text silently, and Python's own text cannot hold it.
        characters = np.frombuffer(content, np.dtype("u4").newbyteorder(dtype.byteorder))
        require(characters.max() <= sys.maxunicode, "text of impossible characters")


def from_buffer(
    buffer: bytes,
    kind: ArrayType,
    shape: tuple[int, ...],
    order: Literal["C", "F"],
    axis_order: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Return an array pickled by protocol 5, as `numpy._core.numeric._frombuffer` does."""
    _check_content(buffer, kind.dtype, shape)
    array = np.frombuffer(buffer, kind.dtype)
    if axis_order is None:
        return array.reshape(shape, order=order)
    return array.reshape(shape).transpose(axis_order)


def scalar(kind: ArrayType, content: bytes) -> np.generic:
    """Return one NumPy number or text."""
    return from_buffer(content, kind, (), "C")[()]  # type: ignore[return-value]  # the stubs know no index that takes the item


@dataclass(frozen=True)
class Storage:
    """The flat values that tensors are views of: not an array, which a pickle could make itself."""

    values: np.ndarray

    def __sizeof__(self) -> int:
        return super().__sizeof__() + self.values.nbytes


def storage_of_pid(pid: Any, storage_of: StorageOf) -> Storage:
    """Return the storage that a pickle names as `("storage", type, key, device, count)`."""
    name, dtype, key, _device, count = pid[:5]
    is_whole = all(part is None for part in pid[5:])
    require(name == "storage" and is_whole, "a storage of an unknown kind")
    require(isinstance(dtype, np.dtype) and type(key) is str, "a storage without a type")
    require(type(count) is int and count >= 0, "a storage of an impossible size")
    return Storage(storage_of(dtype.itemsize, key, count).view(dtype))


def rebuild_tensor(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> np.ndarray:
    """Return a pickled tensor as an array, for `torch._utils._rebuild_tensor_v2`.

    Raises UnpicklingError for a tensor that exceeds its storage, or repeats values: a short file
    could claim a huge one.
    """
    require(type(storage) is Storage, "a tensor without values")
    # Behind `requires_grad` and hooks: that the values are to be negated or conjugated.
    require(not any(rest[2:]), "a tensor that is a view of other values")
    values = storage.values
    is_shape = type(size) is type(stride) is tuple and len(size) == len(stride)
    require(is_shape and len(size) <= _MAX_DIMENSIONS, "a tensor's shape")
    numbers = (offset, *size, *stride)
    are_valid = all(type(number) is int and 0 <= number < _LARGEST_NUMBER for number in numbers)
    require(are_valid, "a tensor's offset, size or stride")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    require(0 in size or last < len(values), "a tensor outside its storage")
    require(math.prod(size) <= len(values), "a tensor larger than its storage")
    if 0 in size:
        return np.zeros(size, values.dtype)
    steps = [step * values.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps)
