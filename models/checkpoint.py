"""Reading and writing checkpoints: atomically, and without running what a file holds."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from system.config import make_config
from system.errors import InputError
from system.files import atomic_write

MODALITIES = ("visual", "audio", "text")
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
_LARGEST_SIZE = 2**16  # of inputs and outputs


@dataclass(frozen=True)
class PublishedFormat:
    """How the checkpoints of a model's authors name its weights."""

    mark: str  # what a name there begins with, and no name here
    prefixes: Mapping[str, str]  # theirs to ours
    widths: Mapping[str, str]  # by modality: a weight, by our name, whose last axis is as wide
    never_used: str | None = None  # a pattern of weights that no forward pass uses

    def matches(self, weights: Mapping[str, Tensor]) -> bool:
        """Tell whether these are the names of a published checkpoint."""
        return any(name.startswith(self.mark) for name in weights)

    def rename(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights our names and leave out those that are never used.

        An unknown name stays as it is, for the check on loading to name.
        """
        return {
            self._our_name(name): weight
            for name, weight in weights.items()
            if self.never_used is None or not re.search(self.never_used, name)
        }

    def _our_name(self, name: str) -> str:
        for theirs, ours in self.prefixes.items():
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return name


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds, whichever program wrote it."""

    path: Path
    weights: dict[str, Tensor]  # by their names in the file
    model: str | None = None  # its name in the registry, or FILE.py:CLASS; None: it does not say
    config: Mapping[str, Any] = field(default_factory=dict)  # the model's
    widths: Mapping[str, Any] = field(default_factory=dict)  # of visual, audio and text
    outputs: int = 1
    details: dict[str, Any] = field(default_factory=dict)  # everything else in the file


def write_checkpoint(path: Path, model: nn.Module, name: str, **details: Any) -> None:
    """Write a model, its `name` and `details` to `path`; a kill leaves the old file or the new.

    The model is of the contract: it has `config`, `widths` and `outputs`. `details` are plain
    values and state dicts, so that the file loads without pickle. Raises OSError when the disk
    is full or the folder cannot be written.
    """
    content = {
        "model": name,
        "config": asdict(model.config),
        "widths": dict(model.widths),
        "outputs": model.outputs,
        "model_state_dict": model.state_dict(),
        **details,
    }
    # Through memory, because torch.save hides a full disk behind a RuntimeError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this program or of a model's authors, onto the CPU.

    Raises InputError when there is no such file, when it is not a checkpoint, or when loading
    it would run code.
    """
    content = _load_safely(path)
    weights = content.pop("model_state_dict", None) if isinstance(content, dict) else None
    if not _is_state_dict(weights):
        raise InputError(
            f"{path} is not a checkpoint: expected a dict with a model_state_dict of tensors; "
            "give a .pth file written by main_msaf.py --train or the released code."
        )
    if isinstance(content.get("sizes"), dict):  # this program before it had other models
        sizes = content.pop("sizes")
        content["widths"] = {kind: sizes.pop(kind, None) for kind in MODALITIES}
        content |= {"model": "nhfnet", "config": sizes}
    parts = {name: content.pop(name) for name in _PARTS if name in content}
    for name, kind in _PARTS.items():
        if name in parts and type(parts[name]) is not kind:
            raise InputError(
                f"{path}: {name} is {type(parts[name]).__name__}, expected {kind.__name__}; the "
                "file is damaged."
            )
    return Checkpoint(path, weights, **parts, details=content)


_PARTS = {"model": str, "config": dict, "widths": dict, "outputs": int}


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


def restore_model(checkpoint: Checkpoint, model_class: type[nn.Module]) -> nn.Module:
    """Build a model of `model_class` with a checkpoint's weights, in evaluation mode.

    Raises InputError when the file's configuration, widths or weights do not fit the class.
    """
    weights, widths = checkpoint.weights, checkpoint.widths
    published = getattr(model_class, "PUBLISHED", None)
    if published is not None and published.matches(weights):
        weights = published.rename(weights)
        widths = {
            kind: weights[name].shape[-1]
            for kind, name in published.widths.items()
            if name in weights and weights[name].dim()
        }
    sizes = {f"the width of {kind}": widths.get(kind) for kind in MODALITIES}
    for name, size in {**sizes, "the number of outputs": checkpoint.outputs}.items():
        if type(size) is not int or not 0 < size <= _LARGEST_SIZE:
            raise InputError(
                f"{checkpoint.path}: {name} is {size!r}, expected a whole number from 1 to "
                f"{_LARGEST_SIZE}."
            )
    config = make_config(model_class.Config, checkpoint.config, str(checkpoint.path))
    model = model_class(config, {kind: widths[kind] for kind in MODALITIES}, checkpoint.outputs)
    load_weights(model, weights, checkpoint.path)
    return model.eval()


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy `weights`, which come from `path`, into `model`.

    Raises InputError that tells which names are missing, unexpected, or of another shape.
    """
    expected = model.state_dict()
    reshaped = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    problems = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": reshaped,
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise InputError(f"{path} does not fit {type(model).__name__}: {listed}.")
    model.load_state_dict(weights)


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
