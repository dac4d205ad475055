"""Files that `torch.save` wrote, from strangers, as PyTorch's tensors: nothing in them can run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from system.errors import InputError
from system.tensor_pickle import RefusedName, TensorUnpickler
from system.torch_layout import (
    LEGACY_MAGIC,
    ZIP_START,
    BoundedFile,
    StorageOf,
    read_legacy,
    read_zip,
    require,
)
from system.what_it_is import refuse_unread

_LARGEST_PICKLE = 2**23  # bytes, read in seconds; a training's has some thousand


def load_torch_file(path: Path, what: str, advice: str) -> Any:
    """Return what `torch.save` wrote: dense tensors on the CPU, plain values, lists and dicts.

    A NumPy number comes back as Python's, a tuple for a set or a size. Raises InputError, which
    says that `path` is not `what` and ends with `advice`, when the file is damaged, or asks for
    anything else; nothing of it has run then.
    """
    with path.open("rb") as file:
        try:
            is_zip = file.read(4) == ZIP_START
            file.seek(0)
            if is_zip:
                return read_zip(file, _unpickle, _LARGEST_PICKLE)
            require(_unpickle(file, None) == LEGACY_MAGIC, "no PyTorch file")
            return read_legacy(file, _unpickle)
        except RefusedName as error:
            raise InputError(
                f"{path} is refused: it asks to call {error} while loading, which could run any "
                f"code. {what[0].upper()}{what[1:]} holds dense tensors, numbers and text only; "
                "get it from its authors."
            ) from error
        except Exception as error:  # damaged bytes can fail in any way
            refuse_unread(error, path, what, advice)


def _unpickle(part: BinaryIO, storage_of: StorageOf | None) -> Any:
    def as_tensor(dtype: torch.dtype, key: str, count: int) -> Tensor:
        if storage_of is None:
            raise pickle.UnpicklingError("a tensor in an unusual place")
        content = storage_of(dtype.itemsize, key, count)
        return torch.frombuffer(content, dtype=dtype) if count else torch.empty(0, dtype=dtype)

    return TensorUnpickler(BoundedFile(part, _LARGEST_PICKLE), as_tensor).load()
