"""The manifest `dataset.json`: what a prepared dataset holds, and what it was made from."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any

from data.layout import SPLITS
from system.errors import InputError
from system.files import file_facts, read_json, write_json

MANIFEST = "dataset.json"
MOVING = "moving_into_place"  # set in the stage while its files are moved out of it
_COUNT, _NUMBER = int, (int, float)
# The types of the fields, nested ones too; "*" stands for any other name.
_FIELDS: dict[str, dict[str, Any]] = {
    "made_from": {"dataset": str, "scores": str, "alignment": str, "lengths": {"*": _COUNT}},
    "splits": {"*": {"segments": _COUNT, "videos": _COUNT}},
    "left_out": {"*": _COUNT},
    "text": {
        "encoder": str,
        "width": (int, NoneType),
        "length": _COUNT,
        "per": str,
        "unknown_pieces": {"*": _NUMBER},
        "vocabulary": str,  # a digest of the vocabulary that numbers the word pieces
    },
    "bytes": {"*": _COUNT},  # the size of each file, once all are in place
    "rows": {"*": str},  # the digest of each split's segment table, by `data.layout.read_ids`
    "files": {"*": {"bytes": _COUNT, "sample": str}},  # in the stage: facts of its files
}
_REQUIRED = {"made_from", "splits", "left_out", "text", "segments", "videos"}
_LONGEST_QUOTE = 60
_PACKAGES = ("numpy", "h5py", "torch", "pytorch_pretrained_bert")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest in `folder`, None without one; raises InputError when it is damaged."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    if not path.is_file():
        raise InputError(f"{path} is no regular file; delete it and prepare again.")
    manifest: dict[str, Any] = read_json(path, "; delete it and prepare again")
    is_dict = isinstance(manifest, dict)
    fault = _find_fault("", manifest, _FIELDS) if is_dict else f"a {type(manifest).__name__}"
    if fault is not None:
        raise InputError(
            f"{path} is no manifest of dataset_prep.py ({fault}); delete it, move the splits "
            "beside it away, and prepare again."
        )
    return manifest


def _find_fault(name: str, value: Any, kind: Any) -> str | None:
    """Return the name of the first field that is missing or of a wrong type, and its value."""
    if name == ".text" and value is None:  # prepared without text features
        return None
    if isinstance(kind, dict) and isinstance(value, dict):
        for key in kind:
            if key in _REQUIRED and key not in value:
                return f"{name}.{key} is missing".removeprefix(".")
        for key, item in value.items():
            item_kind = kind.get(key, kind.get("*"))
            fault = _find_fault(f"{name}.{key}", item, item_kind) if item_kind else None
            if fault is not None:
                return fault
        return None
    fits = not isinstance(kind, dict) and isinstance(value, kind) and not isinstance(value, bool)
    if fits and (isinstance(value, (str, NoneType)) or value >= 0):
        return None
    return f"{name[1:]}: {repr(value)[:_LONGEST_QUOTE]}"


def is_unchanged(files: dict[str, Any], folder: Path, name: str) -> bool:
    """Tell whether a file in `folder` has the size and sample that the stage's `files` list."""
    path = folder / name
    return name in files and path.is_file() and file_facts(path) == files[name]


def changed_files(manifest: Mapping[str, Any], folder: Path) -> dict[Path, int]:
    """Return the files that are missing, or not as large as they were written, and that size.

    A preparation makes them again. None is known where the manifest lists no sizes.
    """
    sizes = {folder / name: size for name, size in manifest.get("bytes", {}).items()}
    return {
        path: size
        for path, size in sizes.items()
        if not path.is_file() or path.stat().st_size != size
    }


def has_text_of_bert(manifest: Mapping[str, Any]) -> bool:
    """Tell whether a BERT computed the text features: there are some, and not the source's own."""
    return "per" in (manifest.get("text") or {})


def has_rows(manifest: Mapping[str, Any] | None, split: str, digest: str) -> bool:
    """Tell whether a split's segment table has the rows it was prepared with, by its digest.

    True where the manifest lists no digest.
    """
    return bool((manifest or {}).get("rows", {}).get(split, digest) == digest)


def splits_of(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the splits that a dataset has: all three, or one."""
    return tuple(split for split in SPLITS if split in manifest["splits"])


def write_manifest(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest with the time and package versions into `folder`; returns all of it."""
    made_with = {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()}
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    complete = {**manifest, "made_at": time, "made_with": made_with}
    write_json(folder / MANIFEST, complete)
    return complete
