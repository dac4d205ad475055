"""Perturbations of one modality of a split, the same for every model and batch size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.layout import iterate_segments, number_in
from data.loading.batches import batches
from data.loading.options import LoaderOptions
from data.loading.split import INPUTS, Split
from data.npy import NpyReader, NpyWriter, Rows
from models.text_encoder import TextEncoder
from system.processes import SINGLE_PROCESS

MODALITIES = ("text", "audio", "visual")
SHIFTED = ("audio", "visual")  # against text
LEVELS = {
    "missing_random": (0, 20, 40, 60, 80, 100),  # percent of a segment's frames
    "missing_block": (0, 20, 40, 60, 80, 100),
    "noise": (20, 15, 10, 5, 0, -5, -10),  # decibels
    "shift": (-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2),  # seconds; above 0, later than the text
}
_ROWS_PER_SECOND = {"audio": 100, "visual": 30}  # of the CMU sequences
_TIMED_SEGMENTS = 512  # from which rows per second are measured


@dataclass(frozen=True)
class Perturbation:
    """How one modality is disturbed: a kind of `LEVELS`, and its level."""

    modality: str
    kind: str
    level: float


UNDISTURBED = Perturbation("text", "missing_random", 0)


def perturbations() -> list[Perturbation]:
    """Return every perturbation that is measured, by modality and kind."""
    return [
        Perturbation(modality, kind, level)
        for modality in MODALITIES
        for kind, levels in LEVELS.items()
        if kind != "shift" or modality in SHIFTED
        for level in levels
    ]


def effect(perturbation: Perturbation, rows_per_second: float, length: int) -> Perturbation:
    """Return one representative of all perturbations that give the same data; shifts in rows.

    `length` is the number of rows of the modality's array.
    """
    modality, kind, level = perturbation.modality, perturbation.kind, perturbation.level
    if kind == "shift":
        level = round(level * rows_per_second)
        if abs(level) >= length:  # no row is left
            kind, level = "missing_random", 100
    if kind != "noise" and level == 0:
        return UNDISTURBED
    if kind == "missing_block" and level == 100:
        kind = "missing_random"
    return Perturbation(modality, kind, level)


class _ChangedSplit(Split):
    """A split that reads other values than its files have; pickled as its constructor arguments."""

    def __init__(self, split: Split, *arguments: Any) -> None:
        self.__dict__.update(split.__dict__)
        self._arguments = (split, *arguments)

    def __reduce__(self) -> tuple[type[Split], tuple[Any, ...]]:
        return type(self), self._arguments


class EncodedSplit(_ChangedSplit):
    """A split of word pieces whose text features are read from `path`, `(N, T, width)`."""

    def __init__(self, split: Split, path: Path) -> None:
        super().__init__(split, path)
        features = NpyReader(path)
        self.takes_pieces = False
        self._arrays = {**split._arrays, "text": features}
        self.widths = {**split.widths, "text": features.shape[2]}


@torch.no_grad()
def encode_split(
    split: Split, encoder: TextEncoder, path: Path, options: LoaderOptions
) -> EncodedSplit:
    """Write a split's text to `path`, encoded by `encoder`; return the split with this text."""
    encoder = encoder.to(options.device).eval()
    length = encoder.config.words or split.shapes[INPUTS.index("text")][0]
    alone = replace(options, processes=SINGLE_PROCESS)  # each process encodes all segments
    with NpyWriter(path, (length, encoder.config.hidden_size)) as writer:
        for batch in batches(split, None, alone):
            features = encoder(batch.text.to(options.device))
            writer.append(features.float().cpu().numpy())
    return EncodedSplit(split, path)


class PerturbedSplit(_ChangedSplit):
    """A split that reads disturbed values, which depend on seed, row and modality alone.

    The level of a shift is in rows.
    """

    def __init__(self, split: Split, perturbation: Perturbation, seed: int) -> None:
        super().__init__(split, perturbation, seed)

    def read(self, rows: Rows) -> tuple[list[Tensor], np.ndarray]:
        """Read as `Split.read` does, then disturb."""
        tensors, not_finite = super().read(rows)
        _, perturbation, seed = self._arguments
        disturb, number = _DISTURB[perturbation.kind], INPUTS.index(perturbation.modality)
        for row, values in zip(rows, tensors[number].numpy(), strict=True):
            disturb(values, perturbation.level, np.random.default_rng([seed, row, number]))
        return tensors, not_finite


def _drop_at_random(values: np.ndarray, percent: float, rng: np.random.Generator) -> None:
    frames = _frames(values)
    values[rng.permutation(frames)[: round(percent / 100 * len(frames))]] = 0


def _drop_block(values: np.ndarray, percent: float, rng: np.random.Generator) -> None:
    """Set a block of neighbouring frames to 0, at a random start."""
    frames = _frames(values)
    count = round(percent / 100 * len(frames))
    start = int(rng.random() * (len(frames) - count + 1))
    values[frames[start : start + count]] = 0


def _add_noise(values: np.ndarray, decibels: float, rng: np.random.Generator) -> None:
    """Add white noise of this signal-to-noise ratio to each channel, by the segment's power."""
    frames = _frames(values)
    signal = values[frames].astype(np.float64)
    power = np.sum(signal**2, axis=0) / max(1, len(signal))
    noise = np.sqrt(power / 10 ** (decibels / 10))
    values[frames] = signal + noise * rng.standard_normal(signal.shape)


def _shift(values: np.ndarray, rows: float, _: np.random.Generator) -> None:
    """Move the frames to later rows, or to earlier ones; frames that leave the array are lost."""
    count = int(rows)
    values[:] = np.roll(values, count, axis=0)
    values[slice(count) if count > 0 else slice(max(0, len(values) + count), None)] = 0


# Functions that change a segment's values `(T, channels)` in place, by kind.
_DISTURB: dict[str, Callable[[np.ndarray, float, np.random.Generator], None]] = {
    "missing_random": _drop_at_random,
    "missing_block": _drop_block,
    "noise": _add_noise,
    "shift": _shift,
}


def _frames(values: np.ndarray) -> np.ndarray:
    """Return the indices of the rows that are not padding, which is all 0."""
    return np.flatnonzero(values.any(axis=1))


def shift_rates(split: Split) -> dict[str, float]:
    """Return the rows per second of each modality of `SHIFTED`.

    It is the median of rows / seconds over those of the first segments whose times are known and
    which were not cut to the array's length; without any, the rate of the CMU sequences.
    """
    table = list(islice(iterate_segments(split.folder), _TIMED_SEGMENTS))
    seconds = np.array([number_in(row["end"]) - number_in(row["start"]) for row in table])
    tensors, _ = split.read(range(len(table)))
    rates: dict[str, float] = dict(_ROWS_PER_SECOND)
    for name in SHIFTED:
        filled = tensors[INPUTS.index(name)].numpy().any(axis=2)
        padding = filled.argmax(axis=1)  # rows; 0 also when the array is empty
        is_timed = (seconds > 0) & (padding > 0)
        if is_timed.any():
            rows = filled.shape[1] - padding[is_timed]
            rates[name] = float(np.median(rows / seconds[is_timed]))
    return rates
