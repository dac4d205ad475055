"""Models by name, or by FILE.py:CLASS.

A model is a module with `forward(visual, audio, text) -> (B, outputs)`, made as
`CLASS(config, widths, outputs)`; it has these three as attributes. `CLASS.Config` is a frozen
dataclass, and `widths` has the channels of visual, audio and text. A class with
`takes_dropout_keys = True` also gets `dropout_keys` `(B,)` in training. A Config may have
`left_out`, the names of the parts that its values leave out. A class may have attention maps, as in
`models.layers.recording.HasAttention`.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from models.checkpoint import Checkpoint, load_module, restore_model
from models.contract import Model
from models.own_file import import_file
from models.text_encoder import TextEncoder, WithTextEncoder
from system.config import make_config, settings_of
from system.errors import InputError, described, shown
from system.files import whole_digest

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

_TEXT_ENCODER = "text_encoder."  # prefix of its weights
_UNNAMED_MODEL = "nhfnet"  # the model of a checkpoint that names none


def find_class(name: str) -> type[Model]:
    """Return the class of `name`: one of `MODELS`, or FILE.py:CLASS.

    The file is run as a module. Raises InputError when there is no such model, or when it does
    not fulfil the contract.
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
    own_class = getattr(import_file(Path(file)), class_name, None)
    if not (isinstance(own_class, type) and issubclass(own_class, nn.Module)):
        raise InputError(f"--model {name}: expected a class of torch.nn.Module by that name.")
    config = getattr(own_class, "Config", None)
    if not (isinstance(config, type) and is_dataclass(config)):
        raise InputError(
            f"--model {name}: {own_class.__name__}.Config is missing, expected a frozen "
            "dataclass of its settings."
        )
    return cast("type[Model]", own_class)


def model_digest(name: str) -> str | None:
    """Return the digest of the file of a user's own model; None for one of `MODELS`."""
    path = Path(name.rpartition(":")[0])
    return whole_digest(path) if name not in MODELS and path.is_file() else None


def config_class(name: str) -> type[DataclassInstance]:
    """Return the dataclass of a model's settings."""
    return find_class(name).Config


def _beside(name: str, suffix: str) -> Path:
    """Return the path of a model's file with another suffix."""
    return Path(inspect.getfile(find_class(name))).with_suffix(suffix)


def find_published(name: str) -> Path | None:
    """Return the file beside a model with the settings of its publication; None if missing."""
    path = _beside(name, ".json")
    return path if path.is_file() else None


def search_space(name: str) -> Path:
    """Return the file beside a model with its search space; raises InputError if missing."""
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
            f"It is not known how {name} was trained ({_beside(name, '.json')} is missing); train "
            "with a run.json or without --config, or compare with --same_settings."
        )
    return path


def build(name: str, settings: Mapping[str, Any], widths: Mapping[str, int], outputs: int) -> Model:
    """Make a new model; `settings` replace the defaults of its Config.

    Raises InputError when a setting is unknown or impossible, or when the class does not fulfil
    the contract.
    """
    model_class = find_class(name)
    config = make_config(model_class.Config, settings, f"--model {name}")
    if name not in MODELS:  # its defaults are checked too: a checkpoint contains them
        make_config(model_class.Config, settings_of(config), f"--model {name}")
    with reporting_faults(name, "cannot be built"):
        model = model_class(config, dict(widths), outputs)
    _check_attributes(name, model, widths, outputs)
    return model


def _check_attributes(name: str, model: Model, widths: Mapping[str, int], outputs: int) -> None:
    """Raise InputError unless a model has the attributes of the contract."""
    missing = [part for part in ("config", "widths", "outputs") if not hasattr(model, part)]
    if missing:
        raise InputError(f"--model {name} does not set self.{missing[0]}; set it in __init__.")
    if not is_dataclass(model.config) or isinstance(model.config, type):
        raise InputError(
            f"--model {name} sets self.config to {shown(model.config)}, expected a Config; set it "
            "to the `config` that __init__ gets."
        )
    if not isinstance(model.widths, Mapping) or dict(model.widths) != dict(widths):
        raise InputError(
            f"--model {name} sets self.widths to {shown(model.widths)}, but is asked for "
            f"{dict(widths)}; set it to the `widths` that __init__ gets, unchanged."
        )
    if model.outputs != outputs:
        raise InputError(
            f"--model {name} sets self.outputs to {shown(model.outputs)}, but is asked for "
            f"{outputs}; set it to the `outputs` that __init__ gets."
        )


@contextmanager
def reporting_faults(name: str, fault: str) -> Iterator[None]:
    """Raise InputError, which says that a user's own model has the `fault`, for any exception."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        if name in MODELS:
            raise
        raise InputError(f"--model {name} {fault} ({described(error)}).") from error


def restore(checkpoint: Checkpoint, name: str | None = None) -> tuple[str, Model]:
    """Return the name and the model of a checkpoint, in evaluation mode on the CPU.

    `name` is the user's --model. A file's own name of a class is never imported: the user has to
    give a model of their own again, which may also be a change of the model in the file. Raises
    InputError when another model of the program is named, or when the file does not fit the model.
    """
    # The authors' files do not name their model: whether they fit one, their weights decide.
    stored_name = checkpoint.model or name or _UNNAMED_MODEL
    if stored_name not in MODELS and (name is None or name in MODELS):
        raise InputError(
            f"{checkpoint.path} holds a user's own model, {shown(stored_name)}; give its class: "
            "--model FILE.py:CLASS (utils.predict: model_name)."
        )
    if stored_name in MODELS and name in MODELS and name != stored_name:
        raise InputError(
            f"{checkpoint.path} holds the model {shown(stored_name)}, but --model is {name}; leave "
            "--model out, or give a checkpoint of that model."
        )
    name = name or stored_name
    if checkpoint.model is not None and stand_in(checkpoint, name) is not None:
        warnings.warn(f"{checkpoint.path} holds {shown(stored_name)}, this is {name}", stacklevel=2)
    model_class = find_class(name)
    with reporting_faults(name, "cannot be built"):
        if checkpoint.text_encoder is not None:
            return name, _restore_with_text_encoder(checkpoint, model_class)
        return name, restore_model(checkpoint, model_class)


def stand_in(checkpoint: Checkpoint, name: str | None) -> str | None:
    """Return `name` where it is a user's own model of another name than a checkpoint's; else None.

    The weights then make other predictions than in the checkpoint's own model.
    """
    stored_name = checkpoint.model or _UNNAMED_MODEL
    if name is None or name in MODELS:
        return None
    return name if name.rpartition(":")[2] != stored_name.rpartition(":")[2] else None


def _restore_with_text_encoder(checkpoint: Checkpoint, model_class: type[Model]) -> WithTextEncoder:
    """Build a model of `model_class` behind its text encoder, as `restore_model` does."""
    path, weights = checkpoint.path, _weights_of("model.", checkpoint.weights)
    if len(weights) + len(_weights_of(_TEXT_ENCODER, checkpoint.weights)) < len(checkpoint.weights):
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
    weights = _weights_of(_TEXT_ENCODER, checkpoint.weights)
    return load_module(lambda: TextEncoder.from_description(description, str(path)), weights, path)


def _weights_of(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def describe_config(name: str) -> str:
    """Return a model's settings, one per line: name, default, meaning and choices."""
    lines = []
    for field in fields(config_class(name)):
        meaning = field.metadata.get("meaning", "")
        if choices := getattr(field.metadata.get("parse"), "names", ()):
            meaning += f": {', '.join(choices)}"
        lines.append(f"  {f'{field.name}={field.default}':<28}  {meaning}".rstrip())
    return "\n".join(lines)
