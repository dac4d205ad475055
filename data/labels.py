"""The labels of a segment, sentiment and then six emotions, and their scale in each dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from system.errors import InputError


@dataclass(frozen=True)
class Scale:
    """How a dataset's sentiment is labelled."""

    limit: int  # labels lie in [-limit, limit]
    class_names: tuple[str, ...]  # lowest first
    classes: Callable[[np.ndarray], np.ndarray]  # values (n,) to class numbers from 0

    def outside(self, values: np.ndarray) -> np.ndarray:
        """Return which of the finite values lie outside the scale; NaN does not."""
        is_outside: np.ndarray = np.isfinite(values) & (np.abs(values) > self.limit)
        return is_outside

    def faults(self, labels: np.ndarray) -> np.ndarray:
        """Return what is wrong with each of the labels `(N, 1, L)`, "" where nothing is."""
        is_number = np.isfinite(labels).all(axis=(1, 2))
        is_outside = self.outside(labels).any(axis=(1, 2))
        fault = f"label is outside [-{self.limit}, {self.limit}]"
        return np.where(~is_number, "label is no number", np.where(is_outside, fault, ""))


def sentiment_class(values: np.ndarray, limit: int = 3) -> np.ndarray:
    """Round to the nearest whole sentiment (halves to even) and clip to [-limit, limit]."""
    return np.clip(np.round(values), -limit, limit).astype(np.int8)


SIMS_BORDERS = (-0.7, -0.1, 0.1, 0.7)


def class_between(values: np.ndarray, borders: tuple[float, ...]) -> np.ndarray:
    """Return how many borders each value is above, not on, compared as float32."""
    return np.searchsorted(np.array(borders, np.float32), values.astype(np.float32)).astype(np.int8)


_CMU = Scale(3, ("-3", "-2", "-1", "0", "+1", "+2", "+3"), lambda v: sentiment_class(v) + 3)
_SIMS = Scale(
    1,
    ("negative", "weakly -", "neutral", "weakly +", "positive"),
    lambda values: class_between(values, SIMS_BORDERS),
)
# In the order of label columns 1 to 6; each label is an intensity, 0 where it is absent.
EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
EMOTION_SCALE = Scale(3, ("absent", "present"), lambda values: (values > 0).astype(np.int8))
SCALES = {"mosei": _CMU, "mosi": _CMU, "sims": _SIMS}  # by dataset


def scores_of(manifest: Mapping[str, Any] | None) -> str:
    """Return whose labels a prepared dataset has: a name of `SCALES`.

    They are CMU-MOSEI's where there is no manifest, or it does not say. Raises InputError when
    it names another dataset.
    """
    scores = "mosei" if manifest is None else manifest["made_from"].get("scores", "mosei")
    if scores not in SCALES:
        raise InputError(
            f"dataset.json says that the scores are {scores!r}, expected {' or '.join(SCALES)}; "
            "prepare the dataset again."
        )
    return scores
