"""Files that `torch.save` wrote, from strangers, as PyTorch's tensors: nothing in them can run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from system import pickled_arrays
from system.errors import InputError
from system.file_kind import refuse_unread
from system.pickle_bounds import size_of
from system.safe_unpickler import KNOWN, RefusedName, SafeUnpickler
from system.torch_layout import (
    LEGACY_MAGIC,
    ZIP_START,
    Instructions,
    StorageOf,
    read_legacy,
    read_zip,
    require,
)

_LARGEST_PICKLE = 2**23  # bytes, read in seconds; a training's has a few thousand
_MAX_BYTES = 80_000_000  # ten million values: far above what a training saves
_MAX_BITS = 128  # of a whole number: as in a random generator's state
_PLAIN_TYPES = (type(None), bool, int, float, str, bytes, Tensor)


def load_torch_file(path: Path, expected: str, advice: str) -> Any:
    """Return what `torch.save` wrote: dense tensors on the CPU, plain values, lists and dicts.

    A NumPy number becomes a Python number; a set, a size or a device becomes a tuple. Raises
    InputError, which says that `path` is not `expected` ("a checkpoint") and ends with `advice`,
    when the file is damaged, or asks for anything else; nothing in it has run then.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except RefusedName as error:
            raise InputError(
                f"{path} is refused: it asks to call {error} while loading, which could run any "
                f"code. {expected[0].upper()}{expected[1:]} holds only dense tensors, numbers "
                "and text; get it from its authors."
            ) from error
        except Exception as error:  # damaged bytes can fail in any way
            refuse_unread(error, path, expected, advice)


def read_back(value: Any) -> Any:
    """Return what `load_torch_file` would read from a file of `value`; raises any exception."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return _read(buffer)


def _read(file: io.BufferedReader | io.BytesIO) -> Any:
    is_zip = file.read(4) == ZIP_START
    file.seek(0)
    if is_zip:
        return read_zip(file, _unpickle, _LARGEST_PICKLE)
    require(_unpickle(file, None) == LEGACY_MAGIC, "no PyTorch file")
    return read_legacy(file, _unpickle)


def _unpickle(part: BinaryIO, storage_of: StorageOf | None) -> Any:
    content = _TensorUnpickler(part, storage_of, _LARGEST_PICKLE).load()
    require(size_of(content, _check_plain) <= _MAX_BYTES, "too many values")
    return content


def _check_plain(value: Any) -> int:
    """Return the size 0; raises UnpicklingError unless the value is of a plain type."""
    require(isinstance(value, _PLAIN_TYPES), f"a {type(value).__name__} for a value")
    is_short = type(value) is not int or value.bit_length() <= _MAX_BITS
    require(is_short, f"a number of more than {_MAX_BITS} bits")
    return 0


def _tensor(*arguments: Any) -> Tensor:
    values = pickled_arrays.rebuild_tensor(*arguments)
    if values.dtype == pickled_arrays.BFLOAT16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def _numpy_number(*arguments: Any) -> Any:
    """Return a NumPy number as Python's."""
    return pickled_arrays.scalar(*arguments).item()


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    require(not items, "an OrderedDict made with arguments")
    return {}


def _arguments(*arguments: Any) -> tuple[Any, ...]:
    return arguments


class _TensorUnpickler(SafeUnpickler):
    text_encoding = "utf-8"
    known: ClassVar[dict[tuple[str, str], Any]] = {
        **KNOWN,
        ("collections", "OrderedDict"): _ordered_dict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("numpy.core.multiarray", "scalar"): _numpy_number,  # of NumPy 1
        ("numpy._core.multiarray", "scalar"): _numpy_number,  # of NumPy 2
        ("torch", "Size"): _arguments,
        ("torch", "device"): _arguments,
        ("__builtin__", "set"): _arguments,
    }

    def check_key(self, key: Any) -> None:
        """Raise UnpicklingError for a key that no configuration or state dict has."""
        require(type(key) in (str, int), "a key that is neither text nor a whole number")
        super().check_key(key)

    def _build(self) -> None:
        if type(self.stack[-2]) is dict:
            self.stack.pop()  # an OrderedDict's attributes, such as a state dict's versions
        else:
            super()._build()

    dispatch: ClassVar[Instructions] = Instructions(
        {**SafeUnpickler.dispatch, pickle.BUILD[0]: _build}
    )
    # `torch.save` writes sets in another way; a tensor's `add` would use memory.
    for _code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        del dispatch[_code[0]]
    del _code
