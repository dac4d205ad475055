"""A split whose word pieces a text encoder has turned into features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data.loading.batches import batches
from data.loading.options import LoaderOptions
from data.loading.split import INPUTS, Split
from data.npy import NpyReader, NpyWriter
from models.text_encoder import TextEncoder
from system.processes import SINGLE_PROCESS


class EncodedSplit(Split):
    """A split of word pieces whose text is read from features at `path`, `(N, T, width)`."""

    def __init__(self, split: Split, path: Path) -> None:
        self.__dict__.update(split.__dict__)
        self._arguments = split, path
        features = NpyReader(path)
        self.takes_pieces = False
        self._arrays = {**split._arrays, "text": features}
        self.widths = {**split.widths, "text": features.shape[2]}

    def __reduce__(self) -> tuple[type[Split], tuple[Any, ...]]:
        return EncodedSplit, self._arguments


@torch.no_grad()
def encode_split(
    split: Split, encoder: TextEncoder, path: Path, options: LoaderOptions
) -> EncodedSplit:
    """Write a split's text to `path` as the model behind `encoder` sees it; returns it so."""
    encoder = encoder.to(options.device).eval()
    length = encoder.config.words or split.shapes[INPUTS.index("text")][0]
    alone = replace(options, processes=SINGLE_PROCESS)  # each process encodes all
    with NpyWriter(path, (length, encoder.config.hidden_size)) as writer:
        for batch in batches(split, None, alone):
            features = encoder(batch.text.to(options.device))
            writer.append(features.float().cpu().numpy())
    return EncodedSplit(split, path)
