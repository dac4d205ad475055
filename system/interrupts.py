"""Interrupts, by Ctrl-C (SIGINT) or SIGTERM: those received, and blocks that delay them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

_received: list[int] = []  # the signals' numbers
_holds: list[bool] = []  # an entry for each running block that delays interrupts


def receive(number: int) -> bool:
    """Record a signal; returns whether a running block delays it, which only the first can be."""
    _received.append(number)
    return bool(_holds) and len(_received) == 1


def interrupt_exit_code() -> int:
    """Return the exit code that a shell gives a program ended by the signal received."""
    return 128 + (interrupted_by() or signal.SIGINT)


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Delay a first interrupt to the end of the block, so that the block runs whole."""
    _holds.append(True)
    try:
        yield
    finally:
        _holds.pop()
    raise_lost_interrupt()


def interrupted_by() -> int:
    """Return the number of the first signal received, 0 without one."""
    return _received[0] if _received else 0


def interrupt(number: int) -> NoReturn:
    """End as after a signal of this number, which another process may have received."""
    _received.append(number)
    raise KeyboardInterrupt


def raise_lost_interrupt() -> None:
    """Raise again an interrupt that Python ignored, for instance in __del__."""
    if _received and not _holds:
        raise KeyboardInterrupt
