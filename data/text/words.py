"""What stands at each position of a prepared text: words, or a BERT's word pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_pretrained_bert import BertTokenizer

from data.layout import PIECES_FILE, TEXT_LENGTH, iterate_segments
from data.manifest import read_manifest
from data.npy import NpyReader
from data.text.bert import load_tokenizer
from data.text.bert_files import find_kept_bert, weights_facts
from data.text.pieces import kept_pieces
from system.errors import InputError


class PositionNames(NamedTuple):
    """The texts of some segments, position by position."""

    by_row: dict[int, list[str]]  # "" where there is padding
    are_words: bool  # the rows of visual and audio are then the same words


def name_positions(
    folder: Path, rows: Sequence[int], length: int, tokenizer: BertTokenizer | None = None
) -> PositionNames:
    """Name the `length` positions of the texts of some rows of the split in `folder`.

    `tokenizer` is that of the word pieces (None: of the BERT that the manifest names). Nothing is
    fetched. Raises InputError, which says why, where it cannot be known what they are.
    """
    manifest = read_manifest(folder.parent)
    if manifest is None:
        raise InputError(f"{folder.parent} has no dataset.json")
    if manifest["made_from"].get("alignment") == "word":
        words = {row: text.split(" ")[-length:] for row, text in _sentences(folder, rows).items()}
        in_front = {row: [""] * (length - len(words[row])) + words[row] for row in rows}
        return PositionNames(in_front, are_words=True)
    if tokenizer is None:
        text = manifest["text"] or {}
        if text.get("per") != "position" or length < TEXT_LENGTH:
            raise InputError(
                f"what stands where in the text of {folder.parent} is not known: it is "
                f"{text.get('encoder', 'missing')}"
            )
        tokenizer = _find_tokenizer(text)
    if (folder / PIECES_FILE).is_file():
        pieces = _cut_elsewhere(folder / PIECES_FILE, rows, tokenizer)
    else:
        pieces = {
            row: ["[CLS]", *kept_pieces(tokenizer, sentence), "[SEP]"]
            for row, sentence in _sentences(folder, rows).items()
        }
    behind = {row: pieces[row] + [""] * (length - len(pieces[row])) for row in rows}
    return PositionNames(behind, are_words=False)


def _sentences(folder: Path, rows: Sequence[int]) -> dict[int, str]:
    wanted = set(rows)
    found = {n: one["sentence"] for n, one in enumerate(iterate_segments(folder)) if n in wanted}
    if len(found) < len(wanted):
        raise InputError(f"{folder} has no sentences")
    return found


def _find_tokenizer(text: Mapping[str, Any]) -> BertTokenizer:
    """Return the tokenizer of the BERT that a manifest's `text` names."""
    name, commit = text["encoder"], text.get("commit")
    folder = find_kept_bert(name, commit if isinstance(commit, str) else None)
    if folder is None:
        raise InputError(f"the tokenizer of {name} is not at hand")
    if Path(name).is_dir() and weights_facts(name) != text.get("weights"):
        raise InputError(f"{name} is no longer the BERT that encoded the text")
    return load_tokenizer(folder)[0]


def _cut_elsewhere(
    path: Path, rows: Sequence[int], tokenizer: BertTokenizer
) -> dict[int, list[str]]:
    """Return the word pieces of some rows of an array `(N, 2, T)` of input ids and mask."""
    array = NpyReader(path, holds_integers=True)
    if max(rows, default=0) >= len(array):
        raise InputError(f"{path} has too few segments, {len(array):,}")
    pieces_of, found = tokenizer.ids_to_tokens, array.read(rows)
    return {
        row: [pieces_of.get(n, "") if is_there else "" for n, is_there in zip(*own, strict=True)]
        for row, own in zip(rows, found[:, :2].tolist(), strict=True)
    }
