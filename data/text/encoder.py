"""Sentences to BERT features: the encoder's last hidden layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from data.text.bert import load_bert
from data.text.bert_files import find_bert, weights_facts
from data.text.feature_file import TEXT_LENGTH, Sentence
from data.text.fused_bert import fuse
from data.text.precision import compare_with_float32
from data.text.words import kept_pieces
from system.devices import pick_device
from system.errors import InputError

_BATCH_SIZE = {"cpu": 32, "cuda": 512}
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TextEncoder:
    """A BERT that turns sentences into features.

    `name_or_folder` is a folder or a name on the Hugging Face hub; see `data.text.bert`.
    `precision` is what it computes in, float32 or bfloat16. `by_word` gives one vector a word
    instead of one a position. Raises InputError when the BERT cannot be had or is not whole.
    """

    def __init__(
        self,
        name_or_folder: str,
        device: str,
        precision: str = "float32",
        by_word: bool = False,
    ) -> None:
        self._device = pick_device(device)
        self._by_word = by_word
        folder, commit = find_bert(name_or_folder)
        self.tokenizer, model = load_bert(folder)
        self._positions = model.config.max_position_embeddings
        if self._positions < TEXT_LENGTH:
            raise InputError(
                f"BERT {name_or_folder} has {self._positions} positions, expected at least "
                f"{TEXT_LENGTH}."
            )
        self.width: int = model.config.hidden_size
        self._model = fuse(model, _PRECISIONS[precision]).to(self._device)
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
        """Measure whether the precision asked for pays here; None in float32, which is exact."""
        precision = _PRECISIONS[self.description["precision"]]
        if precision == torch.float32:
            return None
        shape = self.batch_size, TEXT_LENGTH, self.width
        batch = torch.randn(shape, device=self._device, dtype=precision)
        return compare_with_float32(self._model.encoder.layer[-1], batch)

    def pieces(self, sentence: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a sentence's input ids and attention mask, each `(TEXT_LENGTH,)` int64."""
        return self._padded(kept_pieces(self.tokenizer, sentence), TEXT_LENGTH)

    def _padded(self, pieces: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        ids = self.tokenizer.convert_tokens_to_ids(["[CLS]", *pieces, "[SEP]"])
        padding = (0, length - len(ids))
        mask = np.pad(np.ones(len(ids), dtype=np.int64), padding)
        return np.pad(np.array(ids, dtype=np.int64), padding), mask

    def encode(self, sentences: Sequence[Sentence]) -> np.ndarray:
        """Encode `n` sentences as one batch, `(n, TEXT_LENGTH, width)` float32.

        Sentences cut into pieces elsewhere keep their length.
        """
        texts = [sentence for sentence in sentences if isinstance(sentence, str)]
        if texts and self._by_word:
            return self._encode_words([text.split(" ") for text in texts])
        ids, masks = zip(*(map(self.pieces, texts) if texts else sentences), strict=True)
        return self.encode_pieces(np.array(ids), np.array(masks))

    def _encode_words(self, sentences: list[list[str]]) -> np.ndarray:
        """Give each of a sentence's last words the mean of its pieces, zeros in front.

        A word without pieces stays zero.
        """
        cut = [
            [self.tokenizer.tokenize(word) for word in words[-TEXT_LENGTH:]] for words in sentences
        ]
        flat = [[piece for word in words for piece in word][: self._positions - 2] for words in cut]
        length = max(map(len, flat)) + 2
        ids, masks = zip(*(self._padded(pieces, length) for pieces in flat), strict=True)
        hidden = self.encode_pieces(np.stack(ids), np.stack(masks))
        features = np.zeros((len(sentences), TEXT_LENGTH, self.width), dtype=np.float32)
        for row, words in enumerate(cut):
            begin = 1  # after [CLS]
            for position, pieces in enumerate(words, start=TEXT_LENGTH - len(words)):
                vectors = hidden[row, begin : min(begin + len(pieces), len(flat[row]) + 1)]
                if len(vectors):
                    features[row, position] = vectors.mean(axis=0)
                begin += len(pieces)
        return features

    @torch.inference_mode()
    def encode_pieces(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Encode input ids and attention mask, both `(n, T)`, to `(n, T, width)` float32.

        A batch for which a GPU has not room is encoded in halves.
        """
        if ids.max() >= len(self.tokenizer.vocab):
            raise InputError(
                f"A word piece has number {ids.max()}, but BERT {self.description['encoder']} "
                f"knows {len(self.tokenizer.vocab)}; give --bert the one that cut the sentences."
            )
        if ids.shape[1] > self._positions:
            raise InputError(
                f"Sentences of {ids.shape[1]} word pieces, but BERT "
                f"{self.description['encoder']} has {self._positions} positions; give another "
                "with --bert."
            )
        try:
            return self._features(ids, mask)
        except torch.OutOfMemoryError:  # others may compute on the same GPU
            if len(ids) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(ids) // 2
        halves = (ids[:half], mask[:half]), (ids[half:], mask[half:])
        return np.concatenate([self.encode_pieces(*part) for part in halves])

    def _features(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        on_device = [torch.from_numpy(array).to(self._device) for array in (ids, mask)]
        hidden, _ = self._model(
            on_device[0], attention_mask=on_device[1], output_all_encoded_layers=False
        )
        features: np.ndarray = hidden.float().cpu().numpy()
        return features
