"""A checkpoint as a file for other programs: safetensors or ONNX."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.checkpoint import ONNX, describe_model, read_checkpoint, write_checkpoint
from models.onnx_file import write_onnx
from models.registry import restore
from system.errors import InputError
from system.files import check_writable
from system.safetensors_file import SUFFIX as SAFETENSORS

# No optimizer. They are plain values in files of this program, but maybe not in others.
_DETAILS = ("task", "run", "dataset", "epoch", "scores")


def export(checkpoint: Path, target: Path, name: str | None = None) -> None:
    """Write the model of a checkpoint to `target`; `name` is the value of `--model`.

    A `.safetensors` file includes the settings, and loads like the checkpoint; an `.onnx` file has
    them in its metadata. Raises InputError for another suffix, or a model that ONNX cannot store.
    """
    if target.suffix not in (SAFETENSORS, ONNX):
        raise InputError(
            f"--export {target}: expected a name that ends in {SAFETENSORS} or {ONNX}."
        )
    content = read_checkpoint(checkpoint)
    check_writable(target.parent)  # fails before the work, as does a name that is too long
    with suppress(FileNotFoundError):
        target.stat()
    name, model = restore(content, name)
    details = {key: content.details[key] for key in _DETAILS if key in content.details}
    details = {key: value for key, value in details.items() if _is_plain(value)}
    if target.suffix == ONNX:
        write_onnx(target, model, describe_model(model, name, **details))
    else:
        write_checkpoint(target, model, name, **details)


def _is_plain(value: Any) -> bool:
    """Tell whether a value can be in the metadata of a file, which are JSON."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # a tensor; a value that contains itself
        return False
    return True
