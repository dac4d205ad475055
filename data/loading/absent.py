"""What to do where a split lacks its text features or its word pieces, by how it was prepared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.fetching.command import is_from_pickle, preparation_command
from data.layout import PIECES_FILE, TEXT_FILE
from system.errors import InputError

Manifest = Mapping[str, Any] | None


def check_text_files(folder: Path, manifest: Manifest, takes_pieces: bool) -> None:
    """Raise InputError if the split lacks word pieces, or features that --no_bert left out."""
    if takes_pieces and not (folder / PIECES_FILE).is_file():
        raise InputError(
            f"{folder} has no {PIECES_FILE}, which fine-tuning a text encoder needs; "
            f"{_advice_on_pieces(folder.parent, manifest)}."
        )
    was_left_out = manifest is not None and manifest["text"] is None
    if was_left_out and not takes_pieces and not (folder / TEXT_FILE).is_file():
        raise InputError(
            f"{folder} has no {TEXT_FILE}, because the dataset was prepared with --no_bert; the "
            "same dataset_prep.py command without --no_bert adds the text features "
            f"({preparation_command(folder.parent, manifest)})."
        )


def _advice_on_pieces(root: Path, manifest: Manifest) -> str:
    if manifest is None:
        return (
            "these arrays are not from dataset_prep.py: write that file too (see docs/data.md), or "
            "prepare the data in another folder (dataset_prep.py --datadir)"
        )
    command, text = preparation_command(root, manifest), manifest["text"]
    if text is None:
        command += ", without --no_bert"
    if is_from_pickle(manifest) and "weights" not in (text or {}):
        # The pickle's own features would be taken, and no pieces made.
        return f"a BERT that encodes the pickle's sentences adds it: run {command}, and --bert NAME"
    return f"add it: run {command}"
