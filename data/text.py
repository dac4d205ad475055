"""Sentences to BERT features (spec: the encoder's last hidden layer, at all positions)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .bert import find_bert, fuse, load_bert
from .device import pick_device
from .errors import InputError
from .npy import NpyWriter, rows_on_disk
from .progress import progress

TEXT_LENGTH = 50  # positions: [CLS], at most 48 word pieces, [SEP], padding


_BATCH_SIZE = {"cpu": 32, "cuda": 512}


class TextEncoder:
    """A BERT that turns sentences into features.

    `name_or_folder` is a folder or a name on the Hugging Face hub; see `data.bert`. Raises
    InputError when the BERT cannot be had or is not whole.
    """

    def __init__(self, name_or_folder: str, device: str) -> None:
        self._device = pick_device(device)
        self.batch_size = _BATCH_SIZE[self._device.type]
        self.tokenizer, model = load_bert(find_bert(name_or_folder))
        positions = model.config.max_position_embeddings
        if positions < TEXT_LENGTH:
            raise InputError(
                f"BERT {name_or_folder} has {positions} positions, expected at least {TEXT_LENGTH}."
            )
        self.width: int = model.config.hidden_size
        self._model = fuse(model).to(self._device)
        self.description = {
            "encoder": name_or_folder,
            "width": self.width,
            "length": TEXT_LENGTH,
            "batch_size": self.batch_size,
        }

    def pieces(self, sentence: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a sentence's input ids and attention mask, each `(TEXT_LENGTH,)` int64."""
        words = self.tokenizer.tokenize(sentence)[: TEXT_LENGTH - 2]
        ids = self.tokenizer.convert_tokens_to_ids(["[CLS]", *words, "[SEP]"])
        padding = TEXT_LENGTH - len(ids)
        mask = np.pad(np.ones(len(ids), dtype=np.int64), (0, padding))
        return np.pad(np.array(ids, dtype=np.int64), (0, padding)), mask

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """Encode `n` sentences as one batch, `(n, TEXT_LENGTH, width)` float32."""
        ids, masks = zip(*map(self.pieces, sentences), strict=True)
        return self.encode_pieces(np.stack(ids), np.stack(masks))

    @torch.inference_mode()
    def encode_pieces(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Encode input ids and attention mask, both `(n, T)`, to `(n, T, width)` float32."""
        on_device = [torch.from_numpy(array).to(self._device) for array in (ids, mask)]
        hidden, _ = self._model(
            on_device[0], attention_mask=on_device[1], output_all_encoded_layers=False
        )
        return hidden.float().cpu().numpy()


def write_text_features(path: Path, sentences: Sequence[str], encoder: TextEncoder) -> None:
    """Write the features of `sentences` to `path`, `(n, TEXT_LENGTH, width)`, as they come.

    A sentence that occurs again is not encoded again. What an earlier, interrupted call left
    in `path` is kept up to its last whole batch; because the batches are always the same, the
    result is the same bit for bit.
    """
    row_shape, batch_size = (TEXT_LENGTH, encoder.width), encoder.batch_size
    written = rows_on_disk(path, row_shape) // batch_size * batch_size
    first_row: dict[str, int] = {}
    for row, sentence in enumerate(sentences):
        first_row.setdefault(sentence, row)
    with (
        NpyWriter(path, row_shape, resume_at=written) as writer,
        progress(total=len(sentences), initial=written, desc=f"BERT {path.parent.name}") as bar,
    ):
        for start in range(written, len(sentences), batch_size):
            rows = range(start, min(start + batch_size, len(sentences)))
            originals = [first_row[sentences[row]] for row in rows]
            fresh = [row for row in rows if first_row[sentences[row]] == row]
            features: dict[int, np.ndarray] = {}
            if fresh:
                encoded = encoder.encode([sentences[row] for row in fresh])
                features = dict(zip(fresh, encoded, strict=True))
            known = [features[row] if row in features else writer.read(row) for row in originals]
            writer.append(np.stack(known))
            bar.update(len(rows))
