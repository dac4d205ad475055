"""Word pieces as an array: the input of a text encoder that is fine-tuned.

`pieces50.npy` holds `(N, 2, T)` whole numbers: input ids and mask; of text by word `(N, 3, T)`,
the third row being the position of each piece's word in the text, from 1, or 0 for none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.layout import TEXT_LENGTH
from system.files import atomic_write

if TYPE_CHECKING:
    from pytorch_pretrained_bert import BertTokenizer  # slow to import

# Input ids and attention mask of one sentence that came as word pieces.
WordPieces = tuple[tuple[int, ...], tuple[int, ...]]
Sentence = str | WordPieces
# Cutting a word takes some ten microseconds; long ones, in scripts without spaces, rarely repeat.
_CACHED_WORDS, _MAX_CACHED_LENGTH = 2**16, 40


def _pieces_of(tokenizer: BertTokenizer, word: str) -> list[str]:
    """Return the pieces of a word between spaces, which do not depend on other words."""
    cut = _cut_word if len(word) <= _MAX_CACHED_LENGTH else _cut_word.__wrapped__
    return cut(tokenizer, word)


@lru_cache(_CACHED_WORDS)
def _cut_word(tokenizer: BertTokenizer, word: str) -> list[str]:
    pieces: list[str] = tokenizer.tokenize(word)
    return pieces


def pieces_of_sentence(tokenizer: BertTokenizer, sentence: str) -> list[str]:
    """Return the word pieces of a sentence that are encoded: its first ones."""
    pieces = (piece for word in sentence.split(" ") for piece in _pieces_of(tokenizer, word))
    return list(islice(pieces, TEXT_LENGTH - 2))


def pieces_of_words(
    tokenizer: BertTokenizer, sentence: str, positions: int
) -> tuple[list[str], list[int]]:
    """Return the pieces of a sentence's last words, and the text position of each piece's word.

    The last word has the last of `TEXT_LENGTH` positions. Pieces are cut off that do not fit
    between [CLS] and [SEP] in the BERT's `positions`.
    """
    words = sentence.split(" ")[-TEXT_LENGTH:]
    pieces: list[str] = []
    word_positions: list[int] = []
    for position, word in enumerate(words, start=TEXT_LENGTH - len(words)):
        word_pieces = _pieces_of(tokenizer, word)
        pieces += word_pieces
        word_positions += [position] * len(word_pieces)
    return pieces[: positions - 2], word_positions[: positions - 2]


class PieceCutter:
    """Cuts sentences into a BERT's word pieces, as they are cut for its features.

    `positions` is the BERT's maximum number of pieces; with `by_word`, as many pieces of a
    sentence's last words are kept.
    """

    def __init__(self, tokenizer: BertTokenizer, positions: int, by_word: bool) -> None:
        self.tokenizer, self._positions, self._by_word = tokenizer, positions, by_word

    def cut(self, sentences: Sequence[str]) -> np.ndarray:
        """Return the pieces of `n` sentences, `(n, 2, TEXT_LENGTH)`, or by word `(n, 3, T)`.

        They are int64, in the layout of the file.
        """
        if not self._by_word:
            cuts = [(pieces_of_sentence(self.tokenizer, text), list[int]()) for text in sentences]
            return self._as_array(cuts, TEXT_LENGTH)[:, :2]
        cuts = [pieces_of_words(self.tokenizer, text, self._positions) for text in sentences]
        return self._as_array(cuts, max((len(pieces) for pieces, _ in cuts), default=0) + 2)

    def _as_array(self, cuts: Sequence[tuple[list[str], list[int]]], length: int) -> np.ndarray:
        array = np.zeros((len(cuts), 3, length), np.int64)
        for rows, (pieces, word_positions) in zip(array, cuts, strict=True):
            ids = self.tokenizer.convert_tokens_to_ids(["[CLS]", *pieces, "[SEP]"])
            rows[0, : len(ids)], rows[1, : len(ids)] = ids, 1
            rows[2, 1 : len(word_positions) + 1] = np.add(word_positions, 1)
        return array


def write_pieces(path: Path, sentences: Sequence[str], cutter: PieceCutter) -> None:
    """Write the pieces of a split's sentences; if killed, the old file or none remains."""
    largest = max(*cutter.tokenizer.vocab.values(), TEXT_LENGTH)  # two bytes mostly are enough
    pieces = cutter.cut(sentences).astype(np.min_scalar_type(largest))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, pieces)


def vocabulary_text(numbers: Mapping[str, int]) -> str:
    """Return pieces, given the number of each, in order, one a line; gaps are empty lines."""
    by_number = {number: piece for piece, number in numbers.items()}
    return "\n".join(by_number.get(number, "") for number in range(max(by_number, default=-1) + 1))


def vocabulary_digest(vocabulary: str) -> str:
    """Return the SHA-256 digest of a vocabulary."""
    return hashlib.sha256(vocabulary.encode(errors="surrogatepass")).hexdigest()
