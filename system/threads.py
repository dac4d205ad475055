"""Distributing work to threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import starmap
from typing import Any, TypeVar

from system.cpus import usable_cpus

Result = TypeVar("Result")


def in_parallel(
    function: Callable[..., Result], items: Sequence[tuple[Any, ...]], max_threads: int
) -> list[Result]:
    """Return `function(*item)` for each item, in order, computed by up to `max_threads` threads.

    No more threads than cores are used. They help where the function spends most of its time
    without Python's lock. Raises what the function raises, after all threads have ended.
    """
    count = min(usable_cpus(), max_threads)
    if count < 2:
        return list(starmap(function, items))
    with ThreadPoolExecutor(count) as executor:
        return list(executor.map(function, *zip(*items, strict=True)))
