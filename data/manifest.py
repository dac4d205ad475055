"""`dataset.json`: what was made from what."""

from __future__ import annotations

import json
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import write_json

MANIFEST = "dataset.json"
_PACKAGES = ("numpy", "h5py", "torch", "pytorch_pretrained_bert")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest in `folder`, None without one; raises InputError when it is damaged."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}; delete it and prepare again.") from error
    if not isinstance(manifest, dict) or {"made_from", "text"} - set(manifest):
        raise InputError(f"{path} is no manifest of dataset_prep.py; delete it and prepare again.")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest into `folder`, with the versions it was made with."""
    made_with = {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()}
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(folder / MANIFEST, {**manifest, "made_at": time, "made_with": made_with})
