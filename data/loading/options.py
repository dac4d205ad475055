"""Settings for making batches: their size, their device, and how processes share them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor

from data.npy import Rows
from system.processes import SINGLE_PROCESS, Processes

_ROWS_AT_ONCE = 6400  # of the longest modality, in an evaluation batch

Order = TypeVar("Order", bound=Rows | Tensor)  # a tensor where the segments are on a device


class RowBatches(Generic[Order]):
    """Rows `(n,)` in order, cut into batches; each batch is made when it is asked for."""

    def __init__(self, order: Order, batch_size: int) -> None:
        self._order = order
        self._size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._size)

    def __getitem__(self, number: int) -> Order:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return cast("Order", self._order[number * self._size : (number + 1) * self._size])

    def __iter__(self) -> Iterator[Order]:
        return map(self.__getitem__, range(len(self)))


def evaluation_batch_size(batch_size: int, shapes: Sequence[tuple[int, int]]) -> int:
    """Return the batch size for evaluation: 6400 rows (128 segments of 50), or `batch_size`.

    `shapes` are those of one segment: rows and width of each modality.
    """
    return max(batch_size, _ROWS_AT_ONCE // max(length for length, _ in shapes))


@dataclass(frozen=True)
class LoaderOptions:
    """How batches are made, the device they are on, and how a model runs on it."""

    device: torch.device
    batch_size: int
    num_workers: int
    verbose: bool  # show progress
    processes: Processes = SINGLE_PROCESS  # that share each batch
    native: bool = True  # with encoders compiled in C++ or Triton
    compiles: bool = False  # by torch.compile

    def rows(self, order: Order) -> RowBatches[Order]:
        """Cut `order` into whole batches, not yet shared among the processes."""
        return RowBatches(order, self.batch_size)

    @property
    def share_size(self) -> int:
        """This process's part of a whole batch."""
        return len(self.share(range(self.batch_size)))

    def share(self, rows: Order) -> Order:
        """Return this process's part of a batch's rows; may be empty in a short last batch."""
        return cast("Order", rows[self.processes.rank :: self.processes.count])
