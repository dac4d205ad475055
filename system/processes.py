"""Several processes, as `torchrun` starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from system.errors import InputError

Value = TypeVar("Value")

# The others wait while the first downloads or aligns, which may take hours.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """How many processes there are, and which of them this is."""

    count: int
    rank: int  # from 0
    local_rank: int  # on this machine: its GPU

    @property
    def is_first(self) -> bool:
        """The first process prints, and writes what is not shared out."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Give each process on a machine a GPU of its own, where `name` leaves it open."""
        import torch

        if self.count > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return name

    def broadcast(self, value: Value | None) -> Value:
        """Return the first process's `value` in all of them; each waits for the others here."""
        box: list[Any] = [value]
        if self.count > 1:
            import torch.distributed

            torch.distributed.broadcast_object_list(box)
            torch.distributed.barrier()
        of_the_first: Value = box[0]
        return of_the_first

    def highest(self, number: int) -> int:
        """Return the highest `number` of all processes in all of them; each waits here."""
        if self.count == 1:
            return number
        import torch

        highest = torch.tensor(number)
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
        return int(highest)

    def gather(self, value: Value) -> list[Value]:
        """Return every process's `value` in all of them, by rank."""
        if self.count == 1:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values


SINGLE_PROCESS = Processes(1, 0, 0)


def is_follower() -> bool:
    """Tell whether `torchrun` started this process, and not as the first."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def join_processes() -> Processes:
    """Join the processes that `torchrun` started; alone without it.

    Raises InputError when something else started several, such as SLURM's srun.
    """
    found = os.environ.get("WORLD_SIZE", "1")
    if found == "1":
        return SINGLE_PROCESS
    numbers = [os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")]
    if not all(number.isdecimal() for number in numbers):
        raise InputError(
            f"WORLD_SIZE is {found}, but RANK and LOCAL_RANK are not set: start several processes "
            "with torchrun --nproc_per_node=N in front of the program's name (in a SLURM job: one "
            "task a node, srun torchrun ...), or unset WORLD_SIZE for one."
        )
    count, rank, local_rank = map(int, numbers)
    import torch.distributed

    torch.distributed.init_process_group(_backend(count), timeout=_PATIENCE)
    return Processes(count, rank, local_rank)


def _backend(count: int) -> str:
    """Return how processes talk: over NCCL where each has a GPU of its own, as it demands."""
    import torch

    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if torch.cuda.is_available() and on_this_machine <= torch.cuda.device_count():
        return "cpu:gloo,cuda:nccl"
    return "gloo"


def leave_processes(processes: Processes) -> None:
    """Take leave of the others."""
    if processes.count > 1:
        import torch.distributed

        torch.distributed.destroy_process_group()
