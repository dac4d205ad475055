"""Sentences to BERT features: the encoder's last hidden layer."""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from data.layout import DOUBTFUL_SHARE, TEXT_LENGTH
from data.text.bert import load_bert
from data.text.bert_files import find_bert
from data.text.description import bert_facts
from data.text.pieces import PieceCutter, Sentence
from data.text.precision import compare_with_float32
from system.bert import means_of_words
from system.devices import pick_device
from system.errors import InputError

_BATCH_SIZE = {"cpu": 32, "cuda": 512}
_BATCHES_AHEAD = {"cpu": 0, "cuda": 1}


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
        # A vocabulary may have a piece twice, so that there are more numbers than pieces.
        self._numbers = max(self.tokenizer.vocab.values()) + 1
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
            **bert_facts(name_or_folder),
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
        (features,) = self.encode_batches([sentences])
        return features

    def encode_batches(self, batches: Iterable[Sequence[Sentence]]) -> Iterator[np.ndarray]:
        """Yield the features of each batch, as `encode` does.

        While a GPU computes a batch, the next one's sentences are cut into pieces.
        """
        running: deque[_Running] = deque()
        for batch in batches:
            running.append(self.start(batch))
            if len(running) > _BATCHES_AHEAD[self._device.type]:
                yield running.popleft().wait()
        yield from (features.wait() for features in running)

    def start(self, sentences: Sequence[Sentence]) -> _Running:
        """Start to encode a batch; `wait()` returns its features."""
        return self._start_pieces(*self._cut(sentences))

    def _cut(self, sentences: Sequence[Sentence]) -> Iterable[np.ndarray]:
        """Return input ids and mask, and by word the words' positions, each `(n, T)`."""
        texts = [sentence for sentence in sentences if isinstance(sentence, str)]
        pieces = self.cutter.cut(texts) if texts else np.array(sentences)
        ids, *others = pieces.swapaxes(0, 1)
        if ids.max() >= self._numbers:
            raise InputError(
                f"A word piece has number {ids.max()}, but BERT {self.description['encoder']} has "
                f"{self._numbers} pieces; name the BERT of these pieces with --bert."
            )
        if ids.shape[1] > self._positions:
            raise InputError(
                f"Sentences have {ids.shape[1]} word pieces, but BERT "
                f"{self.description['encoder']} has {self._positions} positions; give another "
                "with --bert."
            )
        return ids, *others

    @torch.inference_mode()
    def _start_pieces(self, *pieces: np.ndarray) -> _Running:
        """Start to encode a batch: ids and mask, and by word the words' positions, `(n, T)` each.

        A batch that is too large for a GPU's memory is encoded in halves.
        """
        try:
            return _Running(self._features(*pieces))
        except torch.OutOfMemoryError:  # other processes may use the GPU too
            if len(pieces[0]) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(pieces[0]) // 2
        parts = [x[:half] for x in pieces], [x[half:] for x in pieces]
        whole = np.concatenate([self._start_pieces(*part).wait() for part in parts])
        return _Running(torch.from_numpy(whole))

    def _features(self, *pieces: np.ndarray) -> torch.Tensor:
        ids, mask, *word_positions = (torch.from_numpy(x).to(self._device) for x in pieces)
        features: torch.Tensor = self._model(ids, mask).float()
        if word_positions:
            features = means_of_words(features, word_positions[0], TEXT_LENGTH)
        return features


class _Running:
    """Features on the CPU that a GPU may still be computing."""

    def __init__(self, features: torch.Tensor) -> None:
        self._features, self._end = features.to("cpu", non_blocking=True), None
        if features.is_cuda:
            self._end = torch.cuda.current_stream(features.device).record_event()

    def wait(self) -> np.ndarray:
        """Return the features once they are there."""
        if self._end:
            self._end.synchronize()
        features: np.ndarray = self._features.numpy()
        return features


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
