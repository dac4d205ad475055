"""How many threads compute on a CPU, and how those wait that have nothing to do.

OpenMP's threads spin until there is more to do. On a busy machine they then wait, turning, for
threads that do not get to run: a training beside four other processes took five times as long.
"""

from __future__ import annotations

import os

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SMALL_BATCH = 2**13  # values a time step, below which operators gain nothing from threads


def let_threads_sleep() -> None:
    """Have OpenMP's threads spin for a fraction of a millisecond only, then sleep.

    Does nothing where the environment says how they wait. Call it before torch is imported;
    processes started later take it over.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["GOMP_SPINCOUNT"] = "10000"  # GCC's OpenMP
        os.environ["KMP_BLOCKTIME"] = "0"  # LLVM's and Intel's, in milliseconds


def choose_threads(batch_values: int) -> int:
    """Let PyTorch's operators on small batches run in one thread; return how many there were.

    `batch_values` are those of a batch at one time step. The choice depends on nothing else, so
    that the same run has the same sums again. What the environment says of threads stays.
    """
    import torch

    threads = torch.get_num_threads()
    if batch_values < _SMALL_BATCH and not any(name in os.environ for name in _THREADS):
        torch.set_num_threads(1)
    return threads
