"""Noticing in time that a training has diverged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.loading.split import Split, describe_huge_values
from system.errors import InputError, first_names


class Diverged(InputError):
    """A loss or a prediction is no longer a number."""


class Losses:
    """The losses of steps on `split` that have not been read from the device yet."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._unread: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Add the loss of a step."""
        self._unread.append(loss)

    def are_finite(self) -> bool:
        """Tell whether all that have not been read are numbers; leaves them unread."""
        return all(bool(loss.isfinite().all()) for loss in self._unread)

    def read(self, epoch: int, step: int, rows: Sequence[np.ndarray]) -> float:
        """Read all, up to that of the epoch's step number `step`, and return the last.

        `rows` are the rows of each step. Raises Diverged, which names the segments, when one is
        not finite.
        """
        values: list[float] = torch.stack(self._unread).tolist()
        self._unread.clear()
        for index, value in enumerate(values, start=step - len(values)):
            if not math.isfinite(value):
                raise Diverged(self._explain(value, epoch, index + 1, rows[index]))
        return values[-1]

    def _explain(self, value: float, epoch: int, step: int, rows: np.ndarray) -> str:
        listed = first_names([self._split.ids[row] for row in rows])
        advice = describe_huge_values(self._split.folder, rows)
        return (
            f"The loss is {value} at epoch {epoch}, step {step}: training has diverged, on the "
            f"segments {listed}. {advice or 'Try a smaller --lr, or --grad_clip.'} "
            "Earlier checkpoints are kept."
        )
