"""The pickle within a file of `torch.save`, from strangers: nothing in it can run.

A pickle is a program for a small machine that can call whatever it names. This reader knows the
few names that dense tensors and plain values need, and answers each with its own stand-in, so
that no real class, function or attribute is in a file's reach. The standard library's `pickle`
page, "Restricting Globals", has the idea. PyTorch's own `weights_only` reader builds sparse,
quantised and nested tensors too, and takes sizes on trust.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from system.torch_layout import (
    BoundedFile,
    Instructions,
    check_view,
    latin1_bytes,
    no_bytes,
    require,
    storage_named,
)

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_NUMPY_NUMBER = re.compile(r"b1|[iu][1248]|f[248]")
_MOST_BITS = 128  # of a whole number: those of a random generator's state
# Far above what a training saves; below what Python's own recursion, or a message, can bear.
_DEEPEST, _MOST_VALUES = 50, 10_000_000
_LONGEST_NAME = 100


class RefusedName(ValueError):
    """A pickle asks for something that it may not have: the message is its name."""


class TensorUnpickler(pickle._Unpickler):
    """Reads one pickle of dense tensors, numbers, text, lists, tuples and dicts.

    `storage_of(dtype, key, count)` gives the flat tensor that tensors are views of. What the
    file has as a set, a size or a device comes back as a tuple. `load` raises RefusedName for
    any other name, and any exception for a damaged pickle.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    # In Python rather than C, because here an instruction can be replaced.
    def __init__(
        self, file: BoundedFile, storage_of: Callable[[torch.dtype, str, int], Tensor]
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage_of = storage_of

    def load(self) -> Any:
        """Return the content: a tree of a bounded depth and number of values."""
        content = super().load()
        _measure(content, {})
        return content

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name."""
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) not in _KNOWN:
            whole = f"{module}.{name}"
            raise RefusedName(
                whole if len(whole) <= _LONGEST_NAME else f"{whole[:_LONGEST_NAME]}..."
            )
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the storage that the pickle names."""
        return self._storage_of(*storage_named(pid, torch.dtype))

    def _build(self) -> None:
        """Set an object's state: of a number's type only, never an attribute of anything."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is _NumpyType:
            target.order = state[1]
        else:  # an OrderedDict's attributes, such as a state dict's versions
            require(type(target) is dict, "a state for something that has none")

    def _set_items(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        # Hashing a tuple that is nested a million deep would overrun the stack.
        require(type(key) in (str, int), "a key that is neither text nor a whole number")
        require(type(self.stack[-1]) is dict, "an item of something that is no dict")
        self.stack[-1][key] = value

    dispatch: ClassVar[Instructions] = Instructions(
        {
            **pickle._Unpickler.dispatch,
            pickle.BUILD[0]: _build,
            pickle.SETITEM[0]: _set_item,
            pickle.SETITEMS[0]: _set_items,
        }
    )
    # Sets hash what they hold; a bytearray is filled before it is read, whatever size it claims.
    for _code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8):
        del dispatch[_code[0]]
    del _code


class _NumpyType:
    """Stands for the dtype of a NumPy number."""

    def __init__(self, code: str, *_align_and_copy: object) -> None:
        require(type(code) is str and bool(_NUMPY_NUMBER.fullmatch(code)), "a NumPy type")
        self.code = code
        self.order: Literal["<", ">", "|", "="] = "|"


def _numpy_number(kind: _NumpyType, content: bytes) -> bool | int | float:
    """Return a NumPy number as Python's."""
    require(type(kind) is _NumpyType and kind.order in ("<", ">", "|", "="), "a NumPy number")
    dtype = np.dtype(kind.code).newbyteorder(kind.order)
    require(len(content) == dtype.itemsize, "a NumPy number of another size")
    number: bool | int | float = np.frombuffer(content, dtype)[0].item()
    return number


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    """Return a view of the flat `storage`; where it went beyond, PyTorch would enlarge that."""
    require(isinstance(storage, Tensor) and storage.dim() == 1, "a tensor without a storage")
    check_view(storage, offset, size, stride)
    return storage.new_empty(size) if 0 in size else storage.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    require(isinstance(data, Tensor), "a parameter without values")
    return data


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    require(not items, "an OrderedDict in an unusual way")
    return {}


def _arguments(*arguments: Any) -> tuple[Any, ...]:
    return arguments


_KNOWN = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("numpy", "dtype"): _NumpyType,
    ("numpy.core.multiarray", "scalar"): _numpy_number,  # of NumPy 1
    ("numpy._core.multiarray", "scalar"): _numpy_number,  # of NumPy 2
    ("_codecs", "encode"): latin1_bytes,
    ("__builtin__", "bytes"): no_bytes,
    ("torch", "Size"): _arguments,
    ("torch", "device"): _arguments,
    ("__builtin__", "set"): _arguments,
}
_PLAIN = (type(None), bool, int, float, str, bytes, Tensor)


def _measure(value: Any, known: dict[int, tuple[int, int]], level: int = 0) -> tuple[int, int]:
    """Return how deep `value` is nested, and how many values it is when written out.

    `known` has what was measured before, by id: a list may hold another a million times.
    """
    require(level <= _DEEPEST, f"values nested more than {_DEEPEST} deep")  # or in themselves
    if isinstance(value, _PLAIN):
        is_short = type(value) is not int or value.bit_length() <= _MOST_BITS
        require(is_short, f"a number of more than {_MOST_BITS} bits")
        return 0, 1
    require(type(value) in (list, tuple, dict), f"a {type(value).__name__} for a value")
    if id(value) not in known:
        inner = value.values() if type(value) is dict else value
        found = [_measure(one, known, level + 1) for one in inner]
        deepest = max((depth for depth, _ in found), default=0)
        known[id(value)] = 1 + deepest, 1 + sum(count for _, count in found)
    depth, count = known[id(value)]
    require(level + depth <= _DEEPEST, f"values nested more than {_DEEPEST} deep")
    require(count <= _MOST_VALUES, f"more than {_MOST_VALUES:,} values")
    return depth, count
