"""Working ahead in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from itertools import islice
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, working a few items ahead on all cores.

    The threads have the caller's context, as NumPy's `errstate`. Only a few results wait at a
    time, so that memory does not grow with the number of items.
    """
    workers = os.cpu_count() or 1
    errors, call = np.geterr(), np.geterrcall()
    remaining = iter(items)

    def in_context(item: Item) -> Future[Result]:
        return executor.submit(copy_context().run, function, item)

    def take_up_errstate() -> None:  # which NumPy 1 keeps by thread, not by context
        np.seterr(**errors)
        np.seterrcall(call)

    with ThreadPoolExecutor(workers, initializer=take_up_errstate) as executor:
        waiting: deque[Future[Result]] = deque(
            in_context(item) for item in islice(remaining, 2 * workers)
        )
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(in_context(item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
