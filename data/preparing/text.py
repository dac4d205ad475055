"""The text features of a preparation: linked where the sentences are the same, or encoded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.layout import PIECES_FILE, TEXT_FILE, iterate_segments, read_ids
from data.manifest import has_rows, read_manifest, splits_of
from data.npy import NpyReader
from data.preparing.plan import Plan
from data.preparing.prepared import Prepared
from data.text.description import is_same_text
from data.text.pieces import PieceCutter, WordPieces, write_pieces
from system.console import print_warning
from system.errors import InputError
from system.files import flush_file, flush_folder, make_folder, read_json, write_json

_STARTED = "text.json"  # in the stage: the description of the features that were begun


def sentences_of(folder: Path) -> list[str] | list[WordPieces]:
    """Return what is to be encoded: a split's sentences, or its word pieces if it has none.

    Raises InputError if the word pieces are damaged.
    """
    sentences = [row["sentence"] for row in iterate_segments(folder)]
    if not any(sentences) and (folder / PIECES_FILE).is_file():
        return _read_pieces(folder / PIECES_FILE, len(sentences))
    return sentences


def _read_pieces(path: Path, segments: int) -> list[WordPieces]:
    array = NpyReader(path, holds_integers=True)
    if len(array) != segments or array.shape[1] < 2:
        raise InputError(
            f"{path} has shape {array.shape}, expected ({segments}, 2, length); prepare the "
            "dataset again with --force."
        )
    pieces = array.read(range(segments))[:, :2].tolist()
    return [(tuple(ids), tuple(mask)) for ids, mask in pieces]


def cut_text(plan: Plan, cutter: PieceCutter, splits: Sequence[str]) -> list[str]:
    """Write the word pieces of each split that has sentences; returns the files' names."""
    written = []
    for split in splits:
        sentences = sentences_of(plan.arrays_folder / split)
        texts = [text for text in sentences if isinstance(text, str)]
        if texts:
            write_pieces(plan.stage / split / PIECES_FILE, texts, cutter)
            written.append(f"{split}/{PIECES_FILE}")
    return written


def has_same_sentences(prepared: Prepared, folder: Path, split: str) -> bool:
    """Tell whether a split has the same sentences in a prepared alignment and in `folder`."""
    sentences = sentences_of(folder / split)
    if not prepared.has_rows(split) or prepared.lacks_own_pieces(split):
        # Its table was edited or its word pieces are lost; its text has the former ones.
        if not isinstance(sentences[0], str):
            manifest = read_manifest(folder)
            if manifest is None or manifest["made_from"] != prepared.manifest["made_from"]:
                return False
        return has_rows(prepared.manifest, split, read_ids(folder / split)[1])
    try:
        return sentences_of(prepared.folder / split) == sentences
    except InputError:  # its word pieces are damaged
        return False


def started_text(stage: Path) -> dict[str, Any] | None:
    """Return the description of the features that an interrupted preparation began."""
    path = stage / _STARTED
    try:
        started = read_json(path) if path.is_file() else None
    except InputError:
        return None
    size = started.get("batch_size") if isinstance(started, dict) else None
    return started if type(size) is int and size > 0 else None


def start_text(plan: Plan, description: dict[str, Any], splits: Sequence[str]) -> set[str]:
    """Remove unfinished features of another kind, and link those that another alignment has.

    Returns the splits that were linked, whose features are complete.
    """
    started, linked_splits = started_text(plan.stage), set()
    is_begun = started is not None and is_same_text(started, description)
    same = [x for x in plan.same_text if is_same_text(x.manifest["text"], description)]
    for split in splits:
        make_folder(plan.stage / split)
        source = next((x for x in same if has_same_sentences(x, plan.arrays_folder, split)), None)
        if source is not None or not is_begun:
            _remove_begun(plan.stage / split)
        if source is not None:
            _link(source.folder / split, plan.stage / split)
            linked_splits.add(split)
        flush_folder(plan.stage / split)  # before the file below describes it
    write_json(plan.stage / _STARTED, description)
    return linked_splits


def keep_text(
    prepared: Prepared | None, stage: Path, splits: Sequence[str]
) -> dict[str, Any] | None:
    """Link the text features in place into the stage, if the new arrays have the same sentences.

    Word pieces are linked too, if there are some. Returns the features' description, None if
    nothing was linked; the stage has no text features then.
    """
    if prepared is None or not (
        prepared.is_whole([TEXT_FILE])
        and splits_of(prepared.manifest) == tuple(splits)
        and all(has_same_sentences(prepared, stage, split) for split in splits)
    ):
        _drop_begun(stage, splits)
        return None
    for split in splits:
        _remove_begun(stage / split)
        _link(prepared.folder / split, stage / split)
        if prepared.is_whole([PIECES_FILE]):
            _link(prepared.folder / split, stage / split, PIECES_FILE)
        else:
            _remove_cut_pieces(stage / split)
        flush_folder(stage / split)
    text: dict[str, Any] = prepared.manifest["text"]
    return text


def _drop_begun(stage: Path, splits: Sequence[str]) -> None:
    """Remove the features that an interrupted preparation began, which are not asked for now."""
    if any((stage / split / TEXT_FILE).exists() for split in splits):
        print_warning(
            f"{stage}: the text features that an interrupted preparation began are removed; the "
            "same command without --no_bert would have completed them"
        )
    for split in splits:
        _remove_begun(stage / split)
        _remove_cut_pieces(stage / split)


def _remove_cut_pieces(folder: Path) -> None:
    """Remove word pieces that were cut from sentences; those of the source stay."""
    if any(row["sentence"] for row in iterate_segments(folder)):
        (folder / PIECES_FILE).unlink(missing_ok=True)


def _remove_begun(folder: Path) -> None:
    for leftover in folder.glob(f"{TEXT_FILE}*"):
        leftover.unlink()


def _link(source: Path, target: Path, name: str = TEXT_FILE) -> None:
    """Make a hard link to a file of a split in another folder, or a copy where that fails."""
    (target / name).unlink(missing_ok=True)
    try:
        os.link(source / name, target / name)
    except OSError:  # a file system without hard links
        shutil.copyfile(source / name, target / name)
        flush_file(target / name)
