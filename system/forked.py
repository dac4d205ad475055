"""Sharing work out to forked processes, whose results come back in order.

For work that is Python's own, which threads cannot do at once. Each process has the items that
come up every so often, and waits when what it sends is not taken: little is held at a time.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NoReturn, TypeVar

from system.console import hold_interrupts
from system.cpus import share_cpus, usable_cpus
from system.errors import InputError, described

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
    workers: list[tuple[int, BinaryIO]] = []
    try:
        for first in range(count):
            with hold_interrupts():  # that another thread gets, too
                _start(function, items[first::count], count, workers)
        for place in range(len(items)):
            yield _received(*workers[place % count])
    finally:
        for process, results in workers:
            results.close()
            # Where SIGCHLD is ignored, the system has forgotten a process that has ended.
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def _start(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    count: int,
    workers: list[tuple[int, BinaryIO]],
) -> None:
    """Start a process on its share; adds to `workers` its number, and where its results come from.

    The module multiprocessing would take longer to import than to fork, and copy results more.
    """
    receiver, sender = os.pipe()
    # Until the process has said what becomes of them, signals wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with warnings.catch_warnings():  # Python's, where there are threads: they hold no locks
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if not process:
            # With a reader of its own, writing would never fail.
            for reader in (receiver, *(results.fileno() for _, results in workers)):
                os.close(reader)
            _work(function, items, count, sender)
        workers.append((process, os.fdopen(receiver, "rb")))
    except OSError:  # no process can be started
        os.close(receiver)
        raise
    finally:
        os.close(sender)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # raises what came meanwhile


def _work(
    function: Callable[[Item], Result], items: Sequence[Item], count: int, sender: int
) -> NoReturn:
    """Send the results of a share; ends without a word when nobody is left to take them."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process acts
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        share_cpus(count)
        _widen(sender)
        with os.fdopen(sender, "wb") as target, suppress(BrokenPipeError):
            for item in items:
                try:
                    result, error = function(item), None
                except Exception as raised:
                    result, error = None, _sendable(raised)
                # From this protocol on, arrays go through the pipe without a copy.
                pickle.dump((result, error), target, protocol=5)
                target.flush()
                if error is not None:
                    break
        os._exit(0)
    finally:  # nothing of what the first process does at its end
        os._exit(1)


def _sendable(error: Exception) -> Exception:
    """Return an exception that can be pickled and back: itself, or one with its type and words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(described(error))
    return error


def _widen(sender: int) -> None:
    """Let a pipe hold more, so that a process can go on while another one's result is taken."""
    import fcntl

    with suppress(OSError, AttributeError):  # not more than the system allows
        fcntl.fcntl(sender, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _received(process: int, results: BinaryIO) -> Any:
    try:
        result, error = pickle.load(results)
    except (EOFError, pickle.UnpicklingError):  # it ended before, or within, a result
        how = ""
        with suppress(ChildProcessError):
            end = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
            assert end is not None  # it has waited
            code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
            how = f" (exit code {code})"
        raise InputError(
            f"A process of this program has ended before its work{how}, perhaps for want of "
            "memory; run the same command again."
        ) from None
    if error is not None:
        raise error
    return result
