"""`dataset.json`: what was made from what."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any

from data.layout import SPLITS
from system.errors import InputError
from system.files import read_json, write_json

MANIFEST = "dataset.json"
MOVING = "moving_into_place"  # set in the stage while its files are moved out of it
# What must be there, and what it may be. The files' bytes are noted once they are in place.
_FIELDS = {
    "made_from": dict,
    "splits": dict,
    "left_out": dict,
    "text": (dict, NoneType),
    "bytes": dict,
}
_PACKAGES = ("numpy", "h5py", "torch", "pytorch_pretrained_bert")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest in `folder`, None without one; raises InputError when it is damaged."""
    path = folder / MANIFEST
    try:
        manifest = read_json(path, "; delete it and prepare again")
    except FileNotFoundError:
        return None
    fields = manifest if isinstance(manifest, dict) else {}
    for name, kinds in _FIELDS.items():
        if not isinstance(fields.get(name, {} if name == "bytes" else ...), kinds):
            raise InputError(
                f"{path} is no manifest of dataset_prep.py ({name}: {fields.get(name)!r}); delete "
                "it, move the splits beside it away, and prepare again."
            )
    return manifest


def splits_of(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the splits that a dataset has: all of them, or one."""
    return tuple(split for split in SPLITS if split in manifest["splits"])


def write_manifest(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest into `folder`, with the versions it was made with; returns the whole."""
    made_with = {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()}
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    whole = {**manifest, "made_at": time, "made_with": made_with}
    write_json(folder / MANIFEST, whole)
    return whole
