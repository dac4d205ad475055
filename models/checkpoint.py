"""Reading and writing checkpoints: atomically, and without running what a file holds."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from system.errors import InputError
from system.files import atomic_write

# The released format stores its scores as NumPy float64 scalars. A file names the function
# that makes them by the module name of the NumPy version that wrote it.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS = [
    np.dtype,
    type(np.dtype(np.float64)),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
_NAMES_SHOWN = 3


@dataclass
class Checkpoint:
    """What a checkpoint file holds, whichever program wrote it."""

    path: Path
    sizes: Mapping[str, Any]  # of the model: the fields of NHFNetSizes that the file tells
    weights: dict[str, Tensor]  # by the names of NHFNet's state dict
    details: dict[str, Any] = field(default_factory=dict)  # everything else in the file


def write_checkpoint(
    path: Path, model: nn.Module, sizes: Mapping[str, Any], **details: Any
) -> None:
    """Write the model and `details` to `path`; a kill leaves the old file or the new one.

    `details` are plain values and state dicts, so that the file loads without pickle.
    Raises OSError when the disk is full or the folder cannot be written.
    """
    content = {"sizes": dict(sizes), "model_state_dict": model.state_dict(), **details}
    # Through memory, because torch.save hides a full disk behind a RuntimeError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this program or of the released code, onto the CPU.

    Raises InputError when there is no such file, when it is not a checkpoint, or when loading
    it would run code.
    """
    content = _load_safely(path)
    weights = content.pop("model_state_dict", None) if isinstance(content, dict) else None
    if not _is_state_dict(weights):
        raise InputError(
            f"{path} is not an NHFNet checkpoint: expected a dict with a model_state_dict of "
            "tensors; give a .pth file written by main_msaf.py --train or the released code."
        )
    from models.nhfnet import released_format as released  # it imports this module

    if released.is_released(weights):
        weights = released.rename(weights)
        sizes = released.sizes(weights)
    else:
        sizes = content.pop("sizes", {})
    return Checkpoint(path, sizes, weights, content)


def _is_state_dict(weights: Any) -> bool:
    return isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items()
    )


def _load_safely(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"No checkpoint at {path}; give the path of a .pth file.")
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # Bytes that are no checkpoint can make the loader fail in any way.
    except Exception as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise InputError(
                f"{path} is refused: it asks to call {refused[1]} while loading, which could run "
                "any code. A checkpoint holds tensors and numbers only; get it from its authors."
            ) from error
        raise InputError(
            f"{path} is not a checkpoint, or is damaged ({path.stat().st_size:,} bytes); give a "
            ".pth file written by main_msaf.py --train or the released code."
        ) from error


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's weights into `model`.

    Raises InputError that tells which names are missing, unexpected, or of another shape.
    """
    expected = model.state_dict()
    found = checkpoint.weights
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": reshaped,
    }
    if any(problems.values()):
        told = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise InputError(f"{checkpoint.path} does not fit NHFNet: {told}.")
    model.load_state_dict(found)


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
