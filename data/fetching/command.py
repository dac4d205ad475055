"""The command that prepares a dataset, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.fetching.server import DATASETS
from data.layout import ALIGNMENT_NAMES
from system.argument_types import as_argument
from system.errors import InputError


def preparation_command(folder: Path, manifest: Mapping[str, Any] | None = None) -> str:
    """Return the command that prepares the splits in `folder`, as `manifest` says it was.

    A manifest has no paths and not every option: the end of the text says to give the others again.
    Without a manifest, a folder with an alignment's name is taken to have this alignment.
    """
    if manifest is None:
        return _command(folder, folder.name)
    made_from = manifest["made_from"]
    if is_from_pickle(manifest):  # whose alignment is the file's own
        return f"{_command(folder, '')}, with --from and the other options as before"
    command = _command(folder, made_from.get("alignment", ""))
    return f"{command}{_dataset_option(folder, made_from)}, with the other options as before"


def no_dataset(
    folder: Path, datadir: Path, manifest: Mapping[str, Any] | None = None
) -> InputError:
    """Return the error that `folder`, of the prepared dataset in `datadir`, is missing."""
    if datadir.is_file():
        return InputError(f"{datadir} is a file; give the folder of the prepared dataset.")
    command = preparation_command(datadir, manifest)
    return InputError(f"No folder {folder}; prepare the dataset first ({command}).")


def is_from_pickle(manifest: Mapping[str, Any]) -> bool:
    """Return whether a dataset was prepared from a processed pickle."""
    return "folds" not in manifest["made_from"]


def _command(folder: Path, alignment: str) -> str:
    if alignment in ALIGNMENT_NAMES[1:] and folder.name == alignment:
        return f"{_command(folder.parent, '')} --alignment {alignment}"
    return f"dataset_prep.py --datadir {as_argument(folder)}"


def _dataset_option(folder: Path, made_from: Mapping[str, Any]) -> str:
    """Return the option that names a dataset of .csd files, by its title."""
    from data.fetching.demo import DEMO, holds_demo  # h5py is needed for nothing else here

    options = {dataset.title: f" --dataset {dataset.name}" for dataset in DATASETS.values()}
    datadir = folder.parent if folder.name == made_from.get("alignment") else folder
    if holds_demo(datadir / "csd"):  # else the demo's files were given with --csd
        options[DEMO.title] = " --demo"
    return options.get(made_from.get("dataset", ""), "")
