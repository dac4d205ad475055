"""How batches are made, and where they go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from data.npy import Rows
from system.processes import SINGLE_PROCESS, Processes

Order = TypeVar("Order", bound=Rows | Tensor)  # a tensor where the segments are on a device


@dataclass(frozen=True)
class LoaderOptions:
    """How batches are made, where they go, and how a model runs there."""

    device: torch.device
    batch_size: int
    num_workers: int
    verbose: bool  # show progress
    processes: Processes = SINGLE_PROCESS  # that share each batch
    native: bool = True  # encoders that are compiled for it
    compiles: bool = False  # by torch.compile

    def rows(self, order: Order) -> list[Order]:
        """Cut `order` into batches, views of it: whole ones, before they are shared."""
        begins = range(0, len(order), self.batch_size)
        return [cast("Order", order[begin : begin + self.batch_size]) for begin in begins]

    @property
    def share_size(self) -> int:
        """This process's part of a whole batch."""
        return len(self.share(range(self.batch_size)))

    def share(self, rows: Order) -> Order:
        """Return this process's part of a batch's rows; may be empty in a short last batch."""
        return cast("Order", rows[self.processes.rank :: self.processes.count])
