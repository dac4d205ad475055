"""How many processors this process may use, how many threads compute, and how idle ones wait.

Idle OpenMP threads spin. On a busy machine they spin for long, waiting for threads that cannot
run: a training beside four other processes took five times as long.
"""

from __future__ import annotations

import os
from functools import cache

_sharing = [1]  # how many processes share them; the last entry counts
_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_COUNT_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_counts: list[int] = []  # PyTorch's threads before one was chosen
_SMALL_BATCH = 2**13  # values a time step, below which operators gain nothing from threads


@cache
def usable_cpus() -> int:
    """Return how many processors this process may keep busy, at least 1."""
    from joblib import cpu_count  # slow to import

    count: int = cpu_count()
    return max(1, count // _sharing[-1])


def share_cpus(count: int) -> None:
    """Limit this process to its share of the processors, which `count` processes share now."""
    _sharing.append(count)
    usable_cpus.cache_clear()


def let_threads_sleep() -> None:
    """Let OpenMP's idle threads sleep after spinning for a fraction of a millisecond.

    Does nothing where the environment sets how they wait. Call it before torch is imported;
    processes started later inherit it.
    """
    if not any(name in os.environ for name in _WAIT_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = "10000"  # GCC's OpenMP
        os.environ["KMP_BLOCKTIME"] = "0"  # LLVM's and Intel's, in milliseconds


def choose_threads(batch_values: int) -> int:
    """Use one thread for PyTorch's operators on small batches; return the number for large ones.

    `batch_values` is the number of values of a batch at one time step. The choice depends on
    nothing else, so that a run is reproducible, also after others in the same process. A number
    set in the environment is kept.
    """
    import torch

    threads = torch.get_num_threads()
    if any(name in os.environ for name in _COUNT_VARIABLES):
        return threads
    if threads > 1 or not _counts:  # one thread may be the choice for an earlier batch
        _counts[:] = [threads]
    chosen = 1 if batch_values < _SMALL_BATCH else _counts[0]
    if chosen != threads:
        torch.set_num_threads(chosen)
    return _counts[0]
