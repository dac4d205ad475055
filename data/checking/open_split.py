"""A split with all parts of it that can be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.layout import BATCH_FILES, number_in
from data.npy import NpyReader


@dataclass(frozen=True)
class OpenSplit:
    """The parts of a split that can be read."""

    folder: Path
    arrays: dict[str, NpyReader]  # by kind
    pieces: NpyReader | None
    rows: list[dict[str, str]] | None  # of the segment table

    @property
    def name(self) -> str:
        """The split's name: train, val or test."""
        return self.folder.name

    def path(self, kind: str) -> Path:
        """Return the path of an array, by its kind."""
        return self.folder / BATCH_FILES[kind]

    def labels(self) -> np.ndarray:
        """Return the labels as stored, `(N, 1, 7)`; N is 0 when they cannot be read."""
        array = self.arrays.get("label")
        return np.empty((0, 1, 1)) if array is None else array.read(range(len(array)))

    def sentiments(self) -> np.ndarray:
        """Return the first value of each label, `(N,)` float32; N is 0 without labels."""
        return as_float32(self.labels()[:, 0, 0])

    def column(self, name: str) -> np.ndarray:
        """Return a column of the table as float64; NaN where there is no number."""
        return np.array([number_in(row[name]) for row in self.rows or []], dtype=np.float64)

    def seconds(self) -> np.ndarray:
        """Return the length of each segment in the table as float64; NaN where it is unknown."""
        with np.errstate(invalid="ignore", over="ignore"):  # a stranger's table may have any times
            seconds: np.ndarray = self.column("end") - self.column("start")
        return seconds


def as_float32(values: np.ndarray) -> np.ndarray:
    """Return values as float32, infinite where they are beyond it."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun as text, in the plural where it is not 1."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
