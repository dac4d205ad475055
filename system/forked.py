"""Distributing work to forked processes, whose results come back in order.

For work in Python itself, which threads cannot do in parallel. Of N processes, each has every Nth
item, and waits until its result is read: few results are in memory at a time.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, NoReturn, TypeVar

from system.cpus import share_cpus, usable_cpus
from system.errors import InputError, described
from system.interrupts import hold_interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_PROCESSES = 4  # with more, the process that reads the results is the limit
_MIN_ITEMS_EACH = 16  # with fewer, starting a process takes longer than its work
_PIPE_BYTES = 2**20
_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def map_forked(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order; as `map` does where processes gain nothing.

    At most as many processes are started as this one may use processors; they end with the
    iterator. Results are pickled. Raises what `function` raises, when that item's turn comes, and
    InputError when a process is killed.
    """
    count = min(usable_cpus(), len(items) // _MIN_ITEMS_EACH, _MAX_PROCESSES)
    if count < 2 or sys.platform != "linux":  # elsewhere libraries may break in a fork
        yield from map(function, items)
        return
    workers: list[tuple[int, BinaryIO]] = []
    try:
        for first in range(count):
            with hold_interrupts():  # also those that another thread receives
                _start_worker(partial(_run_worker, function, items[first::count], count), workers)
        for index in range(len(items)):
            yield _receive(*workers[index % count])
    finally:
        for process, results in workers:
            results.close()
            # Where SIGCHLD is ignored, the system has forgotten a process that has ended.
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def _start_worker(run: Callable[[int], NoReturn], workers: list[tuple[int, BinaryIO]]) -> None:
    """Start a process that sends its results; adds its id and its pipe of them to `workers`.

    Importing multiprocessing takes longer than a fork, and it copies results more often.
    """
    receiver, sender = os.pipe()
    # Signals wait until the new process has set its handlers.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with warnings.catch_warnings():  # about threads, which hold no locks here
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if not process:
            # If this process kept readers open, its writing would never fail.
            for reader in (receiver, *(results.fileno() for _, results in workers)):
                os.close(reader)
            run(sender)
        workers.append((process, os.fdopen(receiver, "rb")))
    except OSError:  # no process can be started
        os.close(receiver)
        raise
    finally:
        os.close(sender)
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)  # handles signals that came meanwhile


def _run_worker(
    function: Callable[[Item], Result], items: Sequence[Item], count: int, sender: int
) -> NoReturn:
    """Send the results of a share; ends silently when no process reads them any more."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first handles it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        share_cpus(count)
        _enlarge_pipe(sender)
        with os.fdopen(sender, "wb") as target, suppress(BrokenPipeError):
            for item in items:
                try:
                    result, error = function(item), None
                except Exception as raised:
                    result, error = None, _picklable(raised)
                # From this protocol on, arrays go through the pipe without a copy.
                pickle.dump((result, error), target, protocol=5)
                target.flush()
                if error is not None:
                    break
        os._exit(0)
    finally:  # skips the exit handlers of the first process
        os._exit(1)


def _picklable(error: Exception) -> Exception:
    """Return an exception that can be pickled: itself, or one with its type and message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(described(error))
    return error


def _enlarge_pipe(sender: int) -> None:
    """Enlarge a pipe's buffer, so that a process can go on while another's result is read."""
    import fcntl

    with suppress(OSError, AttributeError):  # the system may allow less
        fcntl.fcntl(sender, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _receive(process: int, results: BinaryIO) -> Any:
    try:
        result, error = pickle.load(results)
    except (EOFError, pickle.UnpicklingError):  # the process ended before, or within, a result
        exit_text = ""
        with suppress(ChildProcessError):
            end = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
            assert end is not None  # without WNOHANG, waitid waits
            code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
            exit_text = f" (exit code {code})"
        raise InputError(
            f"A process of this program ended before its work was done{exit_text}, perhaps because "
            "memory ran out; run the same command again."
        ) from None
    if error is not None:
        raise error
    return result
