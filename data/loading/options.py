"""Settings for making batches: their size, their device, and how processes share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from data.npy import Rows
from system.processes import SINGLE_PROCESS, Processes

_ROWS_AT_ONCE = 6400  # of the longest modality, in an evaluation batch

Order = TypeVar("Order", bound=Rows | Tensor)  # a tensor where the segments are on a device


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

    def rows(self, order: Order) -> list[Order]:
        """Cut `order` into whole batches, not yet shared among the processes; these are views."""
        size = self.batch_size
        return [cast("Order", order[k : k + size]) for k in range(0, len(order), size)]

    @property
    def share_size(self) -> int:
        """This process's part of a whole batch."""
        return len(self.share(range(self.batch_size)))

    def share(self, rows: Order) -> Order:
        """Return this process's part of a batch's rows; may be empty in a short last batch."""
        return cast("Order", rows[self.processes.rank :: self.processes.count])
