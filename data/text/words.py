"""The word, or the word piece of a BERT, at each position of a prepared text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_pretrained_bert import BertTokenizer

from data.layout import PIECES_FILE, TEXT_LENGTH, iterate_segments
from data.manifest import read_manifest
from data.npy import NpyReader
from data.text.bert import load_tokenizer
from data.text.bert_files import find_local_bert, weights_facts
from data.text.pieces import pieces_of_sentence
from system.errors import InputError


class PositionNames(NamedTuple):
    """The texts of some segments, position by position."""

    by_row: dict[int, list[str]]  # "" for padding
    are_words: bool  # then visual and audio have one row for each of these words


def name_positions(
    folder: Path, rows: Sequence[int], length: int, tokenizer: BertTokenizer | None = None
) -> PositionNames:
    """Name the `length` positions of the texts of some rows of the split in `folder`.

    `tokenizer` is the one of the word pieces (None: of the BERT that the manifest names). Nothing
    is fetched. Raises InputError with the reason if the names cannot be known.
    """
    manifest = read_manifest(folder.parent)
    if manifest is None:
        raise InputError(f"{folder.parent} has no dataset.json")
    if manifest["made_from"].get("alignment") == "word":
        words = {row: text.split(" ")[-length:] for row, text in _sentences(folder, rows).items()}
        padded = {row: [""] * (length - len(words[row])) + words[row] for row in rows}
        return PositionNames(padded, are_words=True)
    if tokenizer is None:
        text = manifest["text"] or {}
        if text.get("per") != "position" or length < TEXT_LENGTH:
            raise InputError(
                f"the positions of the text in {folder.parent} are unknown: its features are "
                f"{text.get('encoder', 'missing')}"
            )
        tokenizer = _find_tokenizer(text)
    if (folder / PIECES_FILE).is_file():
        pieces = _read_pieces(folder / PIECES_FILE, rows, tokenizer)
    else:
        pieces = {
            row: ["[CLS]", *pieces_of_sentence(tokenizer, sentence), "[SEP]"]
            for row, sentence in _sentences(folder, rows).items()
        }
    padded = {row: pieces[row] + [""] * (length - len(pieces[row])) for row in rows}
    return PositionNames(padded, are_words=False)


def _sentences(folder: Path, rows: Sequence[int]) -> dict[int, str]:
    chosen, segments = set(rows), enumerate(iterate_segments(folder))
    sentences = {number: row["sentence"] for number, row in segments if number in chosen}
    if len(sentences) < len(chosen):
        raise InputError(f"{folder} has no sentences")
    return sentences


def _find_tokenizer(text: Mapping[str, Any]) -> BertTokenizer:
    """Return the tokenizer of the BERT that a manifest's `text` names."""
    name, commit = text["encoder"], text.get("commit")
    folder = find_local_bert(name, commit if isinstance(commit, str) else None)
    if folder is None:
        raise InputError(f"the tokenizer of {name} is not on this machine")
    if Path(name).is_dir() and weights_facts(name) != text.get("weights"):
        raise InputError(f"{name} is no longer the BERT that encoded the text")
    return load_tokenizer(folder)[0]


def _read_pieces(path: Path, rows: Sequence[int], tokenizer: BertTokenizer) -> dict[int, list[str]]:
    """Return the word pieces of some rows of an array `(N, 2, T)` of input ids and mask."""
    array = NpyReader(path, holds_integers=True)
    if max(rows, default=0) >= len(array):
        raise InputError(f"{path} has too few segments, {len(array):,}")
    pieces_of, texts = tokenizer.ids_to_tokens, array.read(rows)[:, :2].tolist()
    return {
        row: [pieces_of.get(k, "") if is_text else "" for k, is_text in zip(ids, mask, strict=True)]
        for row, (ids, mask) in zip(rows, texts, strict=True)
    }
