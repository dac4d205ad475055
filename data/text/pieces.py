"""Word pieces as an array, from which a text encoder that learns along works.

`pieces50.npy` holds `(N, 2, T)` whole numbers: input ids and mask; of text by word `(N, 3, T)`,
the third saying which position of the text the piece's word has, from 1, and 0 for none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.layout import TEXT_LENGTH
from system.files import atomic_write

if TYPE_CHECKING:
    from pytorch_pretrained_bert import BertTokenizer  # slow to import

# Input ids and attention mask of one sentence that was cut into pieces elsewhere.
WordPieces = tuple[tuple[int, ...], tuple[int, ...]]
Sentence = str | WordPieces
# Cutting a word takes some ten microseconds; long ones, in writing without spaces, seldom return.
_WORDS_REMEMBERED, _LONGEST_REMEMBERED = 2**16, 40


def _pieces_of(tokenizer: BertTokenizer, word: str) -> list[str]:
    """Return the pieces of what stands between spaces, which no other word has a say in."""
    if len(word) > _LONGEST_REMEMBERED:
        return _cut_word(tokenizer, word)
    return _remembered_pieces(tokenizer, word)


def _cut_word(tokenizer: BertTokenizer, word: str) -> list[str]:
    pieces: list[str] = tokenizer.tokenize(word)
    return pieces


_remembered_pieces = lru_cache(_WORDS_REMEMBERED)(_cut_word)


def kept_pieces(tokenizer: BertTokenizer, sentence: str) -> list[str]:
    """Return the word pieces of a sentence that are encoded."""
    pieces = (piece for word in sentence.split(" ") for piece in _pieces_of(tokenizer, word))
    return list(islice(pieces, TEXT_LENGTH - 2))


def pieces_of_words(
    tokenizer: BertTokenizer, sentence: str, positions: int
) -> tuple[list[str], list[int]]:
    """Return the pieces of a sentence's last words, and of each, its word's position in the text.

    The last word has the last of `TEXT_LENGTH` positions. Of the pieces, those are left out for
    which a BERT of so many `positions` has no room between its marks.
    """
    words = sentence.split(" ")[-TEXT_LENGTH:]
    pieces: list[str] = []
    places: list[int] = []
    for place, word in enumerate(words, start=TEXT_LENGTH - len(words)):
        own = _pieces_of(tokenizer, word)
        pieces += own
        places += [place] * len(own)
    return pieces[: positions - 2], places[: positions - 2]


class PieceCutter:
    """Cuts sentences into a BERT's word pieces, as they are cut for its features.

    `positions` is how many pieces the BERT takes; with `by_word`, all that it takes of a sentence's
    last words are kept.
    """

    def __init__(self, tokenizer: BertTokenizer, positions: int, by_word: bool) -> None:
        self.tokenizer, self._positions, self._by_word = tokenizer, positions, by_word

    @property
    def largest(self) -> int:
        """The largest number that can stand in a cut: two bytes do for most vocabularies."""
        largest: int = max(*self.tokenizer.vocab.values(), TEXT_LENGTH)
        return largest

    def cut(self, sentences: Sequence[str]) -> np.ndarray:
        """Return the pieces of `n` sentences, `(n, 2, TEXT_LENGTH)`, or by word `(n, 3, T)`.

        They are int64, and laid out as in the file.
        """
        if not self._by_word:
            cut = [(kept_pieces(self.tokenizer, text), list[int]()) for text in sentences]
            return self._laid_out(cut, TEXT_LENGTH)[:, :2]
        rows = [pieces_of_words(self.tokenizer, text, self._positions) for text in sentences]
        return self._laid_out(rows, max((len(pieces) for pieces, _ in rows), default=0) + 2)

    def _laid_out(self, rows: Sequence[tuple[list[str], list[int]]], length: int) -> np.ndarray:
        array = np.zeros((len(rows), 3, length), np.int64)
        for own, (pieces, places) in zip(array, rows, strict=True):
            ids = self.tokenizer.convert_tokens_to_ids(["[CLS]", *pieces, "[SEP]"])
            own[0, : len(ids)], own[1, : len(ids)] = ids, 1
            own[2, 1 : len(places) + 1] = [place + 1 for place in places]
        return array


def write_pieces(path: Path, sentences: Sequence[str], cutter: PieceCutter) -> None:
    """Write the pieces of a split's sentences; a kill leaves the old file or none."""
    pieces = cutter.cut(sentences)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, pieces.astype(np.min_scalar_type(cutter.largest)))


def vocabulary_of(tokenizer: BertTokenizer) -> str:
    """Return a tokenizer's pieces by number, one a line; a line is empty where there is none."""
    by_number = {number: piece for piece, number in tokenizer.vocab.items()}
    return "\n".join(by_number.get(number, "") for number in range(max(by_number) + 1))


def vocabulary_digest(vocabulary: str) -> str:
    """Return what tells a vocabulary from others."""
    return hashlib.sha256(vocabulary.encode(errors="surrogatepass")).hexdigest()
