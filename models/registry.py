"""A name, or FILE.py:CLASS, to a model.

A model is a module with `forward(visual, audio, text) -> (B, outputs)`, made as
`CLASS(config, widths, outputs)`; it keeps the three as attributes. `CLASS.Config` is a frozen
dataclass, and `widths` has the channels of visual, audio and text. A class with
`takes_dropout_keys = True` is also given `dropout_keys` `(B,)` in training. A Config may have
`left_out`, which names the parts that its values leave out. A class may have attention maps, as
`models.layers.recording.HasAttention` says.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from models.checkpoint import Checkpoint, fill, restore_model
from models.contract import Model
from models.text_encoder import TextEncoder, WithTextEncoder
from system.config import make_config
from system.errors import InputError, described, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MODELS = {
    "nhfnet": "models.nhfnet.model:NHFNet",
    "text_only": "models.nhfnet.text_only:TextOnly",
    "mult": "models.baselines.mult:MulT",
    "msaf": "models.baselines.msaf:MSAF",
    "lf_dnn": "models.baselines.lf_dnn:LFDNN",
    "lmf": "models.baselines.lmf:LMF",
    "tfn": "models.baselines.tfn:TFN",
}

_TEXT_ENCODER = "text_encoder."  # what its weights begin with
_WITHOUT_A_NAME = "nhfnet"  # what a checkpoint holds that does not say it


def find_class(name: str) -> type[Model]:
    """Return the class that `name` means: one of `MODELS`, or FILE.py:CLASS.

    The file is run as a module. Raises InputError when there is no such model, or when it does
    not keep to the contract.
    """
    if name in MODELS:
        module, _, class_name = MODELS[name].partition(":")
        model_class: type[Model] = getattr(importlib.import_module(module), class_name)
        return model_class
    file, _, class_name = name.rpartition(":")
    if not file.endswith(".py"):
        raise InputError(
            f"--model {name}: there is no such model, only {', '.join(MODELS)}; give one of them, "
            "or a class of your own as FILE.py:CLASS."
        )
    return _checked(getattr(_import_file(Path(file)), class_name, None), name)


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"--model: there is no file {path}; give FILE.py:CLASS.")
    spec = importlib.util.spec_from_file_location(f"model_of_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # as of every .py file
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # somebody's own code can fail in any way
        reason = described(error)
        raise InputError(f"--model: {path} cannot be imported ({reason}).") from error
    return module


def _checked(found: Any, name: str) -> type[Model]:
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"--model {name}: expected a class of torch.nn.Module by that name.")
    config = getattr(found, "Config", None)
    if not (isinstance(config, type) and is_dataclass(config)):
        raise InputError(
            f"--model {name}: {found.__name__}.Config is missing, expected a frozen dataclass of "
            "its settings."
        )
    return cast("type[Model]", found)


def config_class(name: str) -> type[DataclassInstance]:
    """Return the dataclass of a model's settings."""
    return find_class(name).Config


def _beside(name: str, suffix: str) -> Path:
    """Return the path beside a model's file that differs in its suffix."""
    return Path(inspect.getfile(find_class(name))).with_suffix(suffix)


def find_published(name: str) -> Path | None:
    """Return the file beside a model that says how those who published it trained it, if any."""
    path = _beside(name, ".json")
    return path if path.is_file() else None


def search_space(name: str) -> Path:
    """Return the file beside a model that says among which settings to search.

    Raises InputError when there is none.
    """
    path = _beside(name, ".space.json")
    if not path.is_file():
        raise InputError(
            f"--tune: there is no search space for {name} ({path} is missing); give one: --space."
        )
    return path


def published_settings(name: str) -> Path:
    """Return the file that `find_published` finds; raises InputError when there is none."""
    path = find_published(name)
    if path is None:
        raise InputError(
            f"--config published: how {name} was trained is not known ({_beside(name, '.json')} is "
            "missing); give a run.json, leave --config out, or compare with --same_settings."
        )
    return path


def build(name: str, settings: Mapping[str, Any], widths: Mapping[str, int], outputs: int) -> Model:
    """Make a new model; `settings` replace the defaults of its Config.

    Raises InputError when a setting is unknown or cannot be, or when the class does not take
    what the contract gives it.
    """
    model_class = find_class(name)
    config = make_config(model_class.Config, settings, f"--model {name}")
    if name not in MODELS:  # its defaults too are values that a checkpoint gives back
        make_config(model_class.Config, asdict(config), f"--model {name}")
    with _telling_own_faults(name):
        model = model_class(config, widths, outputs)
    missing = [part for part in ("config", "widths", "outputs") if not hasattr(model, part)]
    if missing:
        raise InputError(f"--model {name} does not keep its {missing[0]} as self.{missing[0]}.")
    return model


@contextmanager
def _telling_own_faults(name: str) -> Iterator[None]:
    """Raise InputError for whatever goes wrong in making a user's own model."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        if name in MODELS:
            raise
        reason = described(error)
        raise InputError(f"--model {name} cannot be built ({reason}).") from error


def restore(checkpoint: Checkpoint, name: str | None = None) -> tuple[str, Model]:
    """Return the name and the model of a checkpoint, in evaluation mode on the CPU.

    `name` is what the user says the model is. Nothing that a file names is imported: a model of
    a user's own has to be named again. Raises InputError when the two differ, or when the file
    does not fit the model.
    """
    # The authors' files do not say which model they hold.
    written = checkpoint.model or (name if name in MODELS else _WITHOUT_A_NAME)
    if name is None and written not in MODELS:
        raise InputError(
            f"{checkpoint.path} holds a model of somebody's own, {shown(written)}; give its class "
            "with --model FILE.py:CLASS."
        )
    if name is not None and (name in MODELS or written in MODELS) and name != written:
        raise InputError(
            f"{checkpoint.path} holds the model {shown(written)}, but --model says {name}; leave "
            "--model out, or give the checkpoint that belongs to it."
        )
    name = name or written
    model_class = find_class(name)
    with _telling_own_faults(name):
        if checkpoint.text_encoder is not None:
            return name, _restore_with_text_encoder(checkpoint, model_class)
        return name, restore_model(checkpoint, model_class)


def _restore_with_text_encoder(checkpoint: Checkpoint, model_class: type[Model]) -> WithTextEncoder:
    """Build a model of `model_class` behind its text encoder, as `restore_model` does."""
    path, weights = checkpoint.path, _below("model.", checkpoint.weights)
    if len(weights) + len(_below(_TEXT_ENCODER, checkpoint.weights)) < len(checkpoint.weights):
        raise InputError(f"{path} holds weights of neither its model nor its text encoder.")
    encoder = restore_text_encoder(checkpoint)
    width = checkpoint.widths.get("text")
    if type(width) is not int or width != encoder.width:
        raise InputError(
            f"{path}: the width of text is {shown(width)}, but its text encoder takes "
            f"{encoder.width}; the file is damaged."
        )
    widths = {**checkpoint.widths, "text": encoder.config.hidden_size}
    alone = replace(checkpoint, weights=weights, widths=widths, text_encoder=None)
    return WithTextEncoder(encoder, restore_model(alone, model_class)).eval()


def restore_text_encoder(checkpoint: Checkpoint) -> TextEncoder:
    """Return the text encoder that a checkpoint has, in evaluation mode; raises InputError."""
    path, description = checkpoint.path, checkpoint.text_encoder or {}
    weights = _below(_TEXT_ENCODER, checkpoint.weights)
    return fill(lambda: TextEncoder.described(description, str(path)), weights, path)


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def describe_config(name: str) -> str:
    """Return a model's settings, a line each: its default, what it means, and its choices."""
    lines = []
    for one in fields(config_class(name)):
        choices = getattr(one.metadata.get("parse"), "names", ())
        told = one.metadata.get("meaning", "") + (f": {', '.join(choices)}" if choices else "")
        lines.append(f"  {f'{one.name}={one.default}':<28}  {told}".rstrip())
    return "\n".join(lines)
