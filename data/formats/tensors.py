"""PyTorch's tensors in files from strangers, as NumPy arrays: nothing in the file can run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

ZIP_START = b"PK\x03\x04"  # of a file that torch.save wrote
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of one by PyTorch before 1.6


def load_tensors(file: Path | BinaryIO) -> Any:
    """Return what `torch.save` wrote: plain values, and arrays for tensors.

    Raises any exception where the file is damaged, or holds more than tensors and plain values.
    """
    return _with_arrays(_load(file))


def _load(file: Path | BinaryIO) -> Any:
    import torch  # which most files do without

    return torch.load(file, map_location="cpu", weights_only=True)


def _with_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_arrays(item) for item in value]
    return as_array(value) if hasattr(value, "untyped_storage") else value


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a dense tensor as an array; one that repeats its values in memory is refused."""
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("a tensor larger than its storage")
    is_brain_float = str(tensor.dtype) == "torch.bfloat16"  # which NumPy does not have
    return (tensor.float() if is_brain_float else tensor).detach().numpy()


def storage_from_bytes(content: bytes) -> Tensor:
    """Return the storage that a pickled tensor holds, `torch.storage._load_from_bytes`."""
    import torch

    storage = _load(io.BytesIO(content))
    if not isinstance(storage, torch.storage.TypedStorage):
        raise TypeError("no tensor's storage")
    return torch.tensor([], dtype=storage.dtype).set_(storage)


def rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """Return a pickled tensor as an array, for `torch._utils._rebuild_tensor_v2`.

    PyTorch checks that the place, in elements of the flat `storage`, lies within it.
    """
    return as_array(storage.as_strided(size, stride, offset))


def rebuild_parameter(array: np.ndarray, *_: Any) -> np.ndarray:
    """Return a pickled parameter's values, for `torch._utils._rebuild_parameter`."""
    return array
