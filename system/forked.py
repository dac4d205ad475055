"""Sharing work out to forked processes, whose results come back in order.

For work that is Python's own, which threads cannot do at once. Each process has the items that
come up every so often, and waits when what it sends is not taken: little is held at a time.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from system.cpus import share_cpus, usable_cpus
from system.errors import InputError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 4  # processes: the one that takes the results is busy then
_ITEMS_EACH = 16  # with fewer, starting one takes longer than what it does
_PIPE_BYTES = 2**20
_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def map_forked(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order; as `map` does where nothing is to be gained.

    No more processes are started than this one may use processors, and they end with the iterator.
    Results are pickled. What `function` raises is raised here, in its item's place; InputError
    when a process is killed.
    """
    count = min(usable_cpus(), len(items) // _ITEMS_EACH, _MOST)
    if count < 2 or sys.platform != "linux":  # where libraries do not mind a fork
        yield from map(function, items)
        return
    workers: list[tuple[Any, Connection]] = []
    try:
        for first in range(count):
            workers.append(_start(function, items[first::count], count, workers))
        for place in range(len(items)):
            yield _received(*workers[place % count])
    finally:
        for process, connection in workers:
            connection.close()
            process.kill()
            process.join()


def _start(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    count: int,
    others: list[tuple[Any, Connection]],
) -> tuple[Any, Connection]:
    """Start a process on its share; returns it, and where its results come from."""
    import multiprocessing  # slow to import

    receiver, sender = multiprocessing.Pipe(duplex=False)
    readers = [receiver, *(connection for _, connection in others)]
    arguments = function, items, count, sender, readers
    process = multiprocessing.get_context("fork").Process(target=_work, args=arguments)
    # Until the process has said what becomes of them, signals wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with warnings.catch_warnings():  # Python's, where there are threads: they hold no locks
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sender.close()
    return process, receiver


def _work(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    count: int,
    sender: Connection,
    readers: list[Connection],
) -> None:
    """Send the results of a share; ends without a word when nobody is left to take them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process acts
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    for reader in readers:  # or writing would never fail
        reader.close()
    share_cpus(count)
    _widen(sender)
    with suppress(BrokenPipeError):
        for item in items:
            try:
                result = function(item), None
            except Exception as error:
                sender.send((None, error))
                return
            sender.send(result)


def _widen(sender: Connection) -> None:
    """Let a pipe hold more, so that a process can go on while another one's result is taken."""
    import fcntl

    with suppress(OSError, AttributeError):  # not more than the system allows
        fcntl.fcntl(sender.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _received(process: Any, connection: Connection) -> Any:
    try:
        result, error = connection.recv()
    except EOFError:
        process.join()
        raise InputError(
            f"A process of this program has ended before its work (exit code {process.exitcode}), "
            "perhaps for want of memory; run the same command again."
        ) from None
    if error is not None:
        raise error
    return result
