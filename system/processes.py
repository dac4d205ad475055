"""Several processes, as `torchrun` starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from system.errors import InputError

Value = TypeVar("Value")

# The others wait while the first downloads or aligns, which may take hours.
_TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """The number of processes, and the rank of this one."""

    count: int
    rank: int  # from 0
    local_rank: int  # on this machine: its GPU

    @property
    def is_first(self) -> bool:
        """Whether this is the first process, which prints, and writes what is not distributed."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return a GPU of its own for each process on a machine, unless `name` is more specific."""
        import torch

        if self.count > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return name

    def broadcast(self, value: Value | None) -> Value:
        """Return the first process's `value` in all of them; each waits for the others here."""
        values: list[Any] = [value]
        if self.count > 1:
            import torch.distributed

            torch.distributed.broadcast_object_list(values)
            torch.distributed.barrier()
        first_value: Value = values[0]
        return first_value

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
    """Return whether `torchrun` started this process, but not as the first."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def join_processes() -> Processes:
    """Join the processes that `torchrun` started; alone without it.

    Raises InputError when something else started several, such as SLURM's srun.
    """
    world_size = os.environ.get("WORLD_SIZE", "1")
    if world_size == "1":
        return SINGLE_PROCESS
    numbers = [os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")]
    if not all(number.isdecimal() for number in numbers):
        raise InputError(
            f"WORLD_SIZE is {world_size}, but RANK and LOCAL_RANK are not set: to start several "
            "processes, put torchrun --nproc_per_node=N before the program's name (in a SLURM job: "
            "one task per node, srun torchrun ...); for one process, unset WORLD_SIZE."
        )
    count, rank, local_rank = map(int, numbers)
    import torch.distributed

    torch.distributed.init_process_group(_backend(count), timeout=_TIMEOUT)
    return Processes(count, rank, local_rank)


def _backend(count: int) -> str:
    """Return how processes communicate: by NCCL, which needs a GPU for each, where there is one."""
    import torch

    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if torch.cuda.is_available() and on_this_machine <= torch.cuda.device_count():
        return "cpu:gloo,cuda:nccl"
    return "gloo"


def leave_processes(processes: Processes) -> None:
    """End the communication with the other processes."""
    if processes.count > 1:
        import torch.distributed

        torch.distributed.destroy_process_group()
