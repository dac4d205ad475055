"""Several processes, as `torchrun` starts them."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from system.argument_types import whole_number
from system.errors import InputError, first_line

Value = TypeVar("Value")

# The others wait while the first downloads or aligns, which may take hours.
_TIMEOUT = timedelta(days=7)
_LAST_PORT = 2**16 - 1


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
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return SINGLE_PROCESS
    count = _variable("WORLD_SIZE", 1)
    processes = Processes(count, _variable("RANK", 0, count - 1), _variable("LOCAL_RANK", 0))
    # What PyTorch reads itself; where the first process is missing, it would wait for days.
    _variable("MASTER_PORT", 1, _LAST_PORT)
    if not os.environ.get("MASTER_ADDR"):
        _refuse("MASTER_ADDR is not set")
    import torch.distributed

    try:
        torch.distributed.init_process_group(_backend(count), timeout=_TIMEOUT)
    except torch.distributed.DistNetworkError as error:
        raise InputError(
            f"The processes cannot find each other ({first_line(error)}); start them together, by "
            "torchrun, and with another --master_port where the port is in use."
        ) from error
    return processes


def _variable(name: str, minimum: int, *maximum: int) -> int:
    """Return a number that `torchrun` sets; raises InputError if it is missing or out of range."""
    if name not in os.environ:
        _refuse(f"{name} is not set")
    try:
        return whole_number(minimum, *maximum)(os.environ[name])
    except ArgumentTypeError as error:
        _refuse(f"{name}: {error}")


def _refuse(fault: str) -> NoReturn:
    raise InputError(
        f"WORLD_SIZE is set, which asks for several processes, but {fault}: to start them, put "
        "torchrun --nproc_per_node=N before the program's name (in a SLURM job: one task per "
        "node, srun torchrun ...); for one process, unset WORLD_SIZE."
    )


def _backend(count: int) -> str:
    """Return how processes communicate: by NCCL, which needs a GPU for each, where there is one."""
    import torch

    is_known = "LOCAL_WORLD_SIZE" in os.environ
    on_this_machine = _variable("LOCAL_WORLD_SIZE", 1) if is_known else count
    if torch.cuda.is_available() and on_this_machine <= torch.cuda.device_count():
        return "cpu:gloo,cuda:nccl"
    return "gloo"


def leave_processes(processes: Processes) -> None:
    """End the communication with the other processes."""
    if processes.count > 1:
        import torch.distributed

        torch.distributed.destroy_process_group()
