"""Sharing work out to threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
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
    results: list[Any] = [None] * len(items)
    remaining = iter(list(enumerate(items)))

    def work() -> None:  # whoever is free takes the next item
        for place, item in remaining:
            results[place] = function(*item)

    helpers = [_helpers().submit(work) for _ in range(min(usable_cpus(), most) - 1)]
    try:
        work()
    finally:
        for _ in remaining:  # after an error nobody takes another item
            pass
        running = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in running]
    for error in filter(None, errors):
        raise error
    # Helpers that were not needed wait for a thread that takes them off, and would keep these.
    found, results[:] = results[:], []
    return found


@cache
def _helpers() -> ThreadPoolExecutor:
    """Return the threads beside the caller's, which are kept for the next time."""
    return ThreadPoolExecutor(max(1, usable_cpus() - 1))


if hasattr(os, "register_at_fork"):  # a forked process has none of them
    os.register_at_fork(after_in_child=_helpers.cache_clear)
