"""A checkpoint as a file for other programs: safetensors."""

from __future__ import annotations

from pathlib import Path

from models.checkpoint import read_checkpoint, write_checkpoint
from models.registry import restore
from system.errors import InputError
from system.safetensors_file import SUFFIX as SAFETENSORS

_DETAILS = ("task", "run", "dataset", "epoch", "scores")  # plain values; no optimizer


def export(checkpoint: Path, target: Path, name: str | None = None) -> None:
    """Write the model of a checkpoint to `target`; `name` is what `--model` says it is.

    A `.safetensors` file has its settings too, and loads like the checkpoint. Raises InputError
    for another suffix.
    """
    if target.suffix != SAFETENSORS:
        raise InputError(f"--export {target}: expected a name that ends in {SAFETENSORS}.")
    read = read_checkpoint(checkpoint)
    name, model = restore(read, name)
    kept = {key: read.details[key] for key in _DETAILS if key in read.details}
    write_checkpoint(target, model, name, **kept)
