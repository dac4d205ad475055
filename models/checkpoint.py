"""Reading and writing checkpoints: atomically, and without running code from a file."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.contract import Model
from models.text_encoder import text_encoder_of
from system.config import make_config, settings_of
from system.errors import InputError, shown
from system.files import write_bytes
from system.safetensors_file import SUFFIX as SAFETENSORS
from system.safetensors_file import load_safetensors, write_safetensors
from system.torch_file import load_torch_file, read_back
from system.weights import check_weights, is_state_dict

AnyModel = TypeVar("AnyModel", bound=Model)
AnyModule = TypeVar("AnyModule", bound=nn.Module)

MODALITIES = ("visual", "audio", "text")
ONNX = ".onnx"  # is written, never read
_ADVICE = "give a .pth file written by main_msaf.py --train or the released code."
_WEIGHT_KEYS = ("model_state_dict", "state_dict")  # ours, and what many programs write
_PART_TYPES = {"model": str, "config": dict, "widths": dict, "outputs": int, "text_encoder": dict}
_MAIN_FILES = ("best.pth", f"model{SAFETENSORS}")  # of a run's folder, and of the hub's
_WRAPPERS = ("module.", "_orig_mod.", "Model.")  # DataParallel's, torch.compile's and MMSA's
_LARGEST_SIZE = 2**16  # of inputs and outputs
# Saved besides the weights by the authors' encoders, of MulT and therefore of NHFNet.
ENCODER_BUFFERS = r"\.version$|\.embed_positions\._float_tensor$"


@dataclass(frozen=True)
class PublishedFormat:
    """The names of a model's weights in its authors' checkpoints."""

    prefixes: Mapping[str, str]  # the authors' prefixes to ours
    widths: Mapping[str, str]  # by modality: our name of a weight whose last axis has its width
    never_used: str | None = None  # a pattern of the authors' weights that no forward pass uses

    def rename(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights our names, and leave out those that are never used.

        Other names are kept: they are ours already, or the check on loading reports them.
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

    def read(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Return the weights by our names, and the widths of the inputs that they are for."""
        renamed = self.rename(weights)
        return renamed, {
            kind: renamed[name].shape[-1]
            for kind, name in self.widths.items()
            if name in renamed and renamed[name].dim()
        }


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file, whichever program wrote it."""

    path: Path
    weights: dict[str, Tensor]  # by their names in the file
    model: str | None = None  # name in the registry, or FILE.py:CLASS; None: not in the file
    config: Mapping[str, Any] = field(default_factory=dict)  # the model's
    widths: Mapping[str, Any] = field(default_factory=dict)  # of visual, audio and text
    outputs: int = 1
    text_encoder: Mapping[str, Any] | None = None  # as `TextEncoder.describe` has it
    details: dict[str, Any] = field(default_factory=dict)  # everything else in the file


def write_checkpoint(path: Path, model: Model, name: str, **details: Any) -> None:
    """Write a model, its `name` and `details` to `path`; a kill leaves the old file or the new.

    `details` are plain values and state dicts, so that the file loads without pickle; in a
    `.safetensors` file, plain values only. Raises OSError when the disk is full or the folder
    cannot be written.
    """
    content = _share_equal_texts(describe_model(model, name, **details))
    if path.suffix == SAFETENSORS:
        write_safetensors(path, model.state_dict(), content)
        return
    content["model_state_dict"] = model.state_dict()
    # Through memory, because torch.save hides a full disk behind a RuntimeError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def describe_model(model: Model, name: str, **details: Any) -> dict[str, Any]:
    """Return a file's content besides the weights: plain values, where `details` are plain."""
    encoder = text_encoder_of(model)
    return {
        "model": name,
        "config": settings_of(model.config),
        "widths": dict(model.widths),
        "outputs": model.outputs,
        **({} if encoder is None else {"text_encoder": encoder.describe()}),
        **details,
    }


def _share_equal_texts(value: Any) -> Any:
    """Return plain values in which equal texts are the same object.

    Pickle writes that object once. A file's bytes, which give results their names, then do not
    depend on whether a training was resumed.
    """
    if type(value) is dict:
        return {_share_equal_texts(key): _share_equal_texts(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_share_equal_texts, value))
    return sys.intern(value) if type(value) is str else value


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this program or of a model's authors, onto the CPU.

    Raises InputError when there is no such file, when it is not a checkpoint, or when loading
    it would run code.
    """
    if not path.is_file():
        files = [path / name for name in _MAIN_FILES if (path / name).is_file()]
        found = f"{path} is a folder" if files else f"No checkpoint at {path}"
        raise InputError(f"{found}; give {files[0] if files else 'the path of a .pth file'}.")
    if path.suffix == ONNX:
        raise InputError(
            f"{path} is a model for onnxruntime, not a checkpoint; give the .pth or {SAFETENSORS} "
            "file that it was made from."
        )
    if path.suffix == SAFETENSORS:
        tensors, content = load_safetensors(path, _ADVICE)
        content = {**content, "model_state_dict": tensors} if isinstance(content, dict) else None
    else:
        content = load_torch_file(path, "a checkpoint", _ADVICE)
    return _checkpoint_of(content, path)


def reread_checkpoint(path: Path, model: Model, name: str) -> Checkpoint:
    """Return what `read_checkpoint` would if `write_checkpoint` had written `path`.

    Raises any exception where it would raise InputError.
    """
    content = {**describe_model(model, name), "model_state_dict": model.state_dict()}
    return _checkpoint_of(read_back(content), path)


def _checkpoint_of(content: Any, path: Path) -> Checkpoint:
    """Return the content of a file as a checkpoint; raises InputError when it is none."""
    if is_state_dict(content):
        content = {"model_state_dict": content}
    keys = [key for key in _WEIGHT_KEYS if isinstance(content, dict) and key in content]
    weights = content.pop(keys[0]) if keys else None
    if not is_state_dict(weights):
        raise InputError(
            f"{path} is not a checkpoint: expected a dict with a {' or '.join(_WEIGHT_KEYS)} of "
            f"tensors, or a dict of tensors; {_ADVICE}"
        )
    if isinstance(content.get("sizes"), dict):  # from a version with NHFNet alone
        sizes = content.pop("sizes")
        content["widths"] = {kind: sizes.pop(kind, None) for kind in MODALITIES}
        content |= {"model": "nhfnet", "config": sizes}
    for name, part_type in (_PART_TYPES | {"task": str}).items():
        if name in content and type(content[name]) is not part_type:
            raise InputError(
                f"{path}: {name} is {type(content[name]).__name__}, expected {part_type.__name__}; "
                "the file is damaged."
            )
    parts = {name: content.pop(name) for name in _PART_TYPES if name in content}
    if ":" not in parts.get("model", ""):  # of a user's own model, `restore_model` drops them
        weights = _without_wrappers(weights)
    return Checkpoint(path, weights, **parts, details=content)


def _without_wrappers(
    weights: dict[str, Tensor], expected: Collection[str] = ()
) -> dict[str, Tensor]:
    """Drop the prefixes that wrappers of the whole model added to every name.

    Those of `expected` names stay: a user's own model may name a part as a wrapper does.
    """
    for wrapper in _WRAPPERS:
        if weights.keys().isdisjoint(expected) and all(
            name.startswith(wrapper) for name in weights
        ):
            stripped = {name.removeprefix(wrapper): weights[name] for name in weights}
            return _without_wrappers(stripped, expected)
    return weights


def restore_model(checkpoint: Checkpoint, model_class: type[AnyModel]) -> AnyModel:
    """Build a model of `model_class` with a checkpoint's weights, in evaluation mode.

    Raises InputError when the file's configuration, widths or weights do not fit the class, or
    when it has a text encoder, for which there is `models.registry.restore`.
    """
    if checkpoint.text_encoder is not None:
        raise InputError(
            f"{checkpoint.path} holds a model with a text encoder of its own; in Python, pass its "
            "path to utils.predict, or the checkpoint to models.registry.restore."
        )
    weights, widths = checkpoint.weights, checkpoint.widths
    published = getattr(model_class, "PUBLISHED", None)
    if published is not None and checkpoint.model is None:
        weights, widths = published.read(weights)
    if checkpoint.model is None and len(widths) < len(MODALITIES):
        raise InputError(
            f"{checkpoint.path} does not say which model its weights belong to, and "
            f"{model_class.__name__} does not know the widths of its inputs from their names "
            f"({shown(next(iter(checkpoint.weights)))}, ...); name their model with --model "
            f"(utils.predict: model_name), or {_ADVICE}"
        )
    sizes = {f"the width of {kind}": widths.get(kind) for kind in MODALITIES}
    for name, size in {**sizes, "the number of outputs": checkpoint.outputs}.items():
        if type(size) is not int or not 0 < size <= _LARGEST_SIZE:
            raise InputError(
                f"{checkpoint.path}: {name} is {shown(size)}, expected a whole number from 1 to "
                f"{_LARGEST_SIZE}."
            )
    config = make_config(model_class.Config, checkpoint.config, str(checkpoint.path))
    arguments = config, {kind: widths[kind] for kind in MODALITIES}, checkpoint.outputs
    if model_class.__module__.startswith("models."):
        return load_module(lambda: model_class(*arguments), weights, checkpoint.path)
    # The constructor of a user's own class may keep its tensors for the next model.
    model = model_class(*arguments)
    load_weights(model, _without_wrappers(weights, model.state_dict()), checkpoint.path)
    return model.eval()


def load_module(
    make: Callable[[], AnyModule], weights: Mapping[str, Tensor], path: Path
) -> AnyModule:
    """Make a module, load weights that come from `path`, and set evaluation mode.

    It is made on `meta` first: that takes no memory, whatever sizes the file claims.
    """
    with torch.device("meta"):
        check_weights(make(), weights, path)
    module = make()
    module.load_state_dict(weights)
    return module.eval()


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy `weights` from `path` into `model`; InputError if they do not fit or are not finite."""
    check_weights(model, weights, path)
    model.load_state_dict(weights)
