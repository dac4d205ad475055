"""The text features of a preparation: taken over where the sentences are the same, or encoded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.layout import PIECES_FILE, TEXT_FILE, iterate_segments, read_ids
from data.manifest import has_rows, splits_of
from data.preparing.plan import Plan, Prepared
from data.text.pieces import PieceCutter, WordPieces, write_pieces
from system.errors import InputError
from system.files import flush_file, flush_folder, make_folder, read_json, write_json

_STARTED = "text.json"  # in the stage: what kind of features was begun


def sentences_of(folder: Path) -> list[str] | list[WordPieces]:
    """Return what is encoded: a split's sentences, or without any, its word pieces."""
    sentences = [row["sentence"] for row in iterate_segments(folder)]
    if not any(sentences) and (folder / PIECES_FILE).is_file():
        pieces = np.load(folder / PIECES_FILE)[:, :2].tolist()
        return [(tuple(ids), tuple(mask)) for ids, mask in pieces]
    return sentences


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
    """Tell whether a split of a prepared alignment has the sentences of that in `folder`."""
    sentences = sentences_of(folder / split)
    if not prepared.has_rows(split):  # its text is of the rows that it had
        has_words = isinstance(sentences[0], str)
        return has_words and has_rows(prepared.manifest, split, read_ids(folder / split)[1])
    return sentences_of(prepared.folder / split) == sentences


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
    """Clear away begun features of another kind, and take those another alignment has.

    Returns the splits that have all their features then.
    """
    is_begun, taken = started_text(plan.stage) == description, set()
    for split in splits:
        make_folder(plan.stage / split)
        others = (x for x in plan.same_text if description.items() <= x.manifest["text"].items())
        other = next((x for x in others if has_same_sentences(x, plan.arrays_folder, split)), None)
        if other is not None or not is_begun:
            _remove_begun(plan.stage / split)
        if other is not None:
            _link(other.folder / split, plan.stage / split)
            taken.add(split)
        flush_folder(plan.stage / split)  # before the note below speaks for it
    write_json(plan.stage / _STARTED, description)
    return taken


def keep_text(
    prepared: Prepared | None, stage: Path, splits: Sequence[str]
) -> dict[str, Any] | None:
    """Take over the text features in place, where new arrays have the same sentences.

    With them come the word pieces, where there are some. Returns their description, None when
    there are none to take.
    """
    if prepared is None or not (
        prepared.is_whole([TEXT_FILE])
        and splits_of(prepared.manifest) == tuple(splits)
        and all(has_same_sentences(prepared, stage, split) for split in splits)
    ):
        return None
    for split in splits:
        _remove_begun(stage / split)
        _link(prepared.folder / split, stage / split)
        if prepared.is_whole([PIECES_FILE]):
            _link(prepared.folder / split, stage / split, PIECES_FILE)
        else:
            (stage / split / PIECES_FILE).unlink(missing_ok=True)
        flush_folder(stage / split)
    text: dict[str, Any] = prepared.manifest["text"]
    return text


def _remove_begun(folder: Path) -> None:
    for leftover in folder.glob(f"{TEXT_FILE}*"):
        leftover.unlink()


def _link(source: Path, target: Path, name: str = TEXT_FILE) -> None:
    """Have a file of a split's in another folder too, without copying where possible."""
    (target / name).unlink(missing_ok=True)
    try:
        os.link(source / name, target / name)
    except OSError:  # a file system without hard links
        shutil.copyfile(source / name, target / name)
        flush_file(target / name)
