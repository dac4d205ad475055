"""Sharing work out to threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import starmap
from typing import Any, TypeVar

from system.cpus import usable_cpus

Result = TypeVar("Result")


def in_parallel(
    function: Callable[..., Result], items: Sequence[tuple[Any, ...]], most: int
) -> list[Result]:
    """Return `function(*item)` for each item, in order, computed by `most` threads at most.

    There are no more of them than cores. They pay where the function spends most of its time
    without Python's lock. Raises what the function raises, once no thread is at work any more.
    """
    count = min(usable_cpus(), most)
    if count < 2:
        return list(starmap(function, items))
    with ThreadPoolExecutor(count) as executor:
        return list(executor.map(function, *zip(*items, strict=True)))
