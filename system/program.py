"""Running a program, so that every failure ends in one clear line and an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import colorama

from system.console import print_error, print_warning
from system.errors import InputError, described, first_line, is_out_of_memory
from system.interrupts import interrupt_exit_code, interrupted_by, raise_lost_interrupt, receive
from system.processes import is_follower
from system.this_python import describe_missing

TRACEBACK_VARIABLE = "NHFNET_TRACEBACK"
_ROOMS = ("system", "data", "models", "utils")  # which no installation can lack
_EXIT_INPUT, _EXIT_UNEXPECTED = 2, 1
_INTERRUPTED = "Interrupted; what was finished is kept."
_follows: list[bool] = []  # not empty where this is not the first of several processes
_SECONDS_FOR_FIRST_PROCESS = 10.0  # to report an error and end all, on a busy machine too
_TOO_MANY_FILES = "too many open files"
_ALLOW_MORE_FILES = (
    "Too many files are open at once; allow more (ulimit -n), or use fewer --num_workers."
)
_OUT_OF_MEMORY = "Out of memory; use smaller batches, or a machine with more."
_LIBRARY = ".so"  # how the name of a compiled module ends
_LOADER_HAS_ENDED = "DataLoader worker (pid"  # how PyTorch begins to report it
# How gloo and NCCL report that another process has ended.
_OTHER_HAS_ENDED = re.compile(
    "connection (closed|reset|refused)|broken pipe|remote process exited", re.IGNORECASE
)


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and exit with code 2."""
        _stop(_EXIT_INPUT, f"{message} (see --help)")


def run(program: Callable[[], None]) -> NoReturn:
    """Run a program; whatever goes wrong in it ends in one line and an exit code other than 0.

    With the environment variable NHFNET_TRACEBACK set, the traceback is printed as well.
    """
    # Warnings, ours and those of libraries, are single lines too.
    warnings.showwarning = lambda message, *_, **__: print_warning(str(message))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no long warnings from every process
    sys.unraisablehook = _ignore_unraisable
    _open_streams()
    if is_follower():
        leave_printing_to_the_first_process()
    colorama.init()  # no colour codes where the output is not a terminal
    try:
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, _interrupt)
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _interrupt)
        program()
        raise_lost_interrupt()
        sys.stdout.flush()
    except InputError as error:
        _stop(_EXIT_INPUT, str(error))
    except KeyboardInterrupt:
        _stop(interrupt_exit_code(), _INTERRUPTED)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_EXIT_UNEXPECTED) from None
    except OSError as error:
        _stop(_EXIT_INPUT, _explain(error))
    except Exception as error:
        _stop_after(error)
    raise SystemExit(0)


def _stop_after(error: Exception) -> NoReturn:
    """End the program after an exception of a library, or one that is a fault of this program."""
    if interrupted_by():  # interrupted code can fail in any way
        _stop(interrupt_exit_code(), _INTERRUPTED)
    if str(error).startswith(_LOADER_HAS_ENDED):
        _stop(
            _EXIT_INPUT,
            "A process that loads batches has ended before its work was done, perhaps because "
            "memory ran out; use fewer --num_workers, and run the same command again, a training "
            "with --resume auto.",
        )
    if is_out_of_memory(error):
        _stop(_EXIT_INPUT, _OUT_OF_MEMORY)
    if _TOO_MANY_FILES in str(error).lower():
        _stop(_EXIT_INPUT, _ALLOW_MORE_FILES)
    cause = error.__cause__ or error  # NumPy hides it behind half a page
    if isinstance(cause, ImportError) and str(cause.path).endswith(_LIBRARY):
        _stop(
            _EXIT_INPUT,
            f"A package's library cannot be loaded ({first_line(cause)}); allow more memory "
            "(ulimit -v), or install the packages again, on a disk from which programs may run.",
        )
    module = error.name if isinstance(error, ModuleNotFoundError) else None
    if module and module.split(".")[0] not in _ROOMS:
        _stop(_EXIT_INPUT, f"{describe_missing(module)}.")
    if isinstance(error, RuntimeError) and _OTHER_HAS_ENDED.search(str(error)):
        if not _follows:  # the others wait in `_stop`
            _wait_to_be_ended()
        _stop(_EXIT_UNEXPECTED, "Another of the processes has ended; its own line says why.")
    _stop(
        _EXIT_UNEXPECTED,
        f"Unexpected error, a fault of this program: {described(error)} "
        f"(set {TRACEBACK_VARIABLE}=1 to see where).",
    )


def _open_streams() -> None:
    """Make printing never fail: characters that the terminal cannot encode are escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by what started the program
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; during an import, end the program at once instead.

    There NumPy would turn the exception into an ImportError, and PyTorch's C++ would abort.
    """
    if receive(number):
        return
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            if not _follows:
                print_error(_INTERRUPTED)
            os._exit(interrupt_exit_code())
        frame = frame.f_back
    raise KeyboardInterrupt


def leave_printing_to_the_first_process() -> None:
    """Print no more, except for an error that does not end the first process too."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    warnings.simplefilter("ignore")
    _follows.append(True)


def _ignore_unraisable(ignored: sys.UnraisableHookArgs) -> None:
    """Print an exception that Python ignores as a warning line; an interrupt is raised later."""
    if not isinstance(ignored.exc_value, KeyboardInterrupt):
        print_warning(described(ignored.exc_value or ignored.exc_type()))


def _stop(code: int, message: str) -> NoReturn:
    if os.environ.get(TRACEBACK_VARIABLE) and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if _follows:
        _wait_to_be_ended()
    if not (_follows and interrupted_by()):
        print_error(message)
    raise SystemExit(code)


def _wait_to_be_ended() -> None:
    """Wait while another process prints the error; torchrun then ends this one in silence."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing could catch it from here on
    time.sleep(_SECONDS_FOR_FIRST_PROCESS)


def _explain(error: OSError) -> str:
    file = f" ({os.fsdecode(error.filename)})" if error.filename else ""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _ALLOW_MORE_FILES
    if error.errno == errno.ENOMEM:
        return _OUT_OF_MEMORY
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full{file}; make room and run the same command again, a training with "
            "--resume auto."
        )
    if error.errno == errno.EFBIG:
        return f"A file would be larger than this shell allows{file}; allow more (ulimit -f)."
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"There is a file where a folder is needed{file}; give another path."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"No permission{file}; change its rights, or choose a place you may read and write."
    if error.errno == errno.ENAMETOOLONG:
        return f"A name is too long for the file system{file}; give a shorter one."
    return f"{error.strerror or error}{file}."
