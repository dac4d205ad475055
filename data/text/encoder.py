"""Sentences to BERT features: the encoder's last hidden layer."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from data.layout import DOUBTFUL_SHARE, TEXT_LENGTH
from data.text.bert import load_bert
from data.text.bert_files import find_bert, weights_facts
from data.text.pieces import PieceCutter, Sentence
from data.text.precision import compare_with_float32
from system.bert import means_of_words
from system.devices import pick_device
from system.errors import InputError

_BATCH_SIZE = {"cpu": 32, "cuda": 512}


class TextEncoder:
    """A BERT that turns sentences into features.

    `name_or_folder` is a folder or a name on the Hugging Face hub; see `data.text.bert`.
    `precision` is float32 or bfloat16. With `by_word`, features are one vector per word instead
    of one per position. Raises InputError when the BERT cannot be found or is incomplete.
    """

    def __init__(
        self, name_or_folder: str, device: str, precision: str = "float32", by_word: bool = False
    ) -> None:
        self._device = pick_device(device)
        folder, commit = find_bert(name_or_folder)
        self.tokenizer, model = load_bert(folder)
        self._positions = model.config.max_position_embeddings
        if self._positions < TEXT_LENGTH:
            raise InputError(
                f"BERT {name_or_folder} has {self._positions} positions, expected at least "
                f"{TEXT_LENGTH}."
            )
        self.cutter = PieceCutter(self.tokenizer, self._positions, by_word)
        self.width: int = model.config.hidden_size
        self._precision: torch.dtype = getattr(torch, precision)
        self._model = model.to(self._device, self._precision)
        self.batch_size = _BATCH_SIZE[self._device.type]
        self.description = {
            "encoder": name_or_folder,
            "weights": weights_facts(name_or_folder),
            "commit": commit,
            "precision": precision,
            "per": "word" if by_word else "position",
            "width": self.width,
            "length": TEXT_LENGTH,
            "batch_size": self.batch_size,
        }

    def compare_precisions(self) -> str | None:
        """Time the precision against float32; returns the result as text, None in float32."""
        if self._precision == torch.float32:
            return None
        shape = self.batch_size, TEXT_LENGTH, self.width
        batch = torch.randn(shape, device=self._device, dtype=self._precision)
        return compare_with_float32(self._model.parts[-1], batch)

    def pieces(self, sentence: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a sentence's input ids and attention mask, `(TEXT_LENGTH,)`, by word `(T,)`."""
        ids, mask, *_ = self.cutter.cut([sentence])[0]
        return ids, mask

    def encode(self, sentences: Sequence[Sentence]) -> np.ndarray:
        """Encode `n` sentences as one batch, `(n, TEXT_LENGTH, width)` float32.

        Sentences that came as word pieces keep their length.
        """
        texts = [sentence for sentence in sentences if isinstance(sentence, str)]
        if not texts:
            ids, mask = np.array(sentences).swapaxes(0, 1)
            return self.encode_pieces(ids, mask)
        ids, mask, *word_positions = self.cutter.cut(texts).swapaxes(0, 1)
        hidden = self.encode_pieces(ids, mask)
        if not word_positions:
            return hidden
        tensors = torch.from_numpy(hidden), torch.from_numpy(word_positions[0])
        return means_of_words(*tensors, TEXT_LENGTH).numpy()

    @torch.inference_mode()
    def encode_pieces(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Encode input ids and attention mask, both `(n, T)`, to `(n, T, width)` float32.

        A batch that is too large for a GPU's memory is encoded in halves.
        """
        if ids.max() >= len(self.tokenizer.vocab):
            raise InputError(
                f"A word piece has number {ids.max()}, but BERT {self.description['encoder']} has "
                f"{len(self.tokenizer.vocab)} pieces; name the BERT of these pieces with --bert."
            )
        if ids.shape[1] > self._positions:
            raise InputError(
                f"Sentences have {ids.shape[1]} word pieces, but BERT "
                f"{self.description['encoder']} has {self._positions} positions; give another "
                "with --bert."
            )
        try:
            on_device = [torch.from_numpy(array).to(self._device) for array in (ids, mask)]
            features: np.ndarray = self._model(*on_device).float().cpu().numpy()
            return features
        except torch.OutOfMemoryError:  # other processes may use the GPU too
            if len(ids) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(ids) // 2
        halves = (ids[:half], mask[:half]), (ids[half:], mask[half:])
        return np.concatenate([self.encode_pieces(*part) for part in halves])


def unknown_share(encoder: TextEncoder, split: str, sentences: Iterable[Sentence]) -> float:
    """Return the share of word pieces that the encoder does not know.

    Warns if it is high, or if many different sentences have the same pieces, and so the same
    features.
    """
    unknown = encoder.tokenizer.vocab["[UNK]"]
    pieces = unknown_pieces = 0
    cuts: Counter[bytes] = Counter()
    for sentence in set(sentences):
        ids, mask = encoder.pieces(sentence) if isinstance(sentence, str) else sentence
        piece_ids = np.array(ids)[np.array(mask, dtype=bool)]
        pieces += max(len(piece_ids) - 2, 0)  # without [CLS] and [SEP]
        unknown_pieces += int(np.count_nonzero(piece_ids == unknown))
        cuts[piece_ids.tobytes()] += 1
    equal = sum(count for count in cuts.values() if count > 1)
    unknown_ratio, equal_ratio = unknown_pieces / max(pieces, 1), equal / max(cuts.total(), 1)
    if max(unknown_ratio, equal_ratio) > DOUBTFUL_SHARE:
        warnings.warn(
            f"{split}: BERT {encoder.description['encoder']} does not know "
            f"{100 * unknown_ratio:.0f} % of the word pieces, and {100 * equal_ratio:.0f} % of the "
            "different sentences have the features of another; is it for this language (--bert)?",
            stacklevel=2,
        )
    return unknown_ratio
