"""What both programs share at the terminal: arguments, messages, tables, and the last line of
handler, which turns every failure into one clear line.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import colorama
from colorama import Fore, Style

from system.errors import InputError, described, is_out_of_memory, shown
from system.processes import is_follower

TRACEBACK_VARIABLE = "NHFNET_TRACEBACK"
_EXIT_INPUT, _EXIT_UNEXPECTED = 2, 1
_INTERRUPTED = "Interrupted; what was finished is kept."
_interrupts: list[int] = []  # the signals that came: SIGINT, SIGTERM
_holds: list[bool] = []  # an entry for each running block that delays interrupts
_follows: list[bool] = []  # not empty where this is not the first of several processes
_LARGEST = 2**31 - 1  # of whole numbers, which PyTorch and NumPy take everywhere
_SECONDS_FOR_FIRST_PROCESS = 10.0  # to report an error and end all, on a busy machine too
_TOO_MANY_FILES = "too many open files"
_ALLOW_MORE_FILES = (
    "Too many files are open at once; allow more (ulimit -n), or use fewer --num_workers."
)
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
        _raise_lost_interrupt()
        sys.stdout.flush()
    except InputError as error:
        _stop(_EXIT_INPUT, str(error))
    except KeyboardInterrupt:
        _stop(_exit_code(), _INTERRUPTED)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_EXIT_UNEXPECTED) from None
    except OSError as error:
        _stop(_EXIT_INPUT, _explain(error))
    except Exception as error:
        _stop_after(error)
    raise SystemExit(0)


def _stop_after(error: Exception) -> NoReturn:
    """End the program after an exception that is none of its own."""
    if _interrupts:  # interrupted code can fail in any way
        _stop(_exit_code(), _INTERRUPTED)
    if is_out_of_memory(error):
        _stop(_EXIT_INPUT, "Out of memory; use smaller batches, or a machine with more.")
    if _TOO_MANY_FILES in str(error).lower():
        _stop(_EXIT_INPUT, _ALLOW_MORE_FILES)
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


def _exit_code() -> int:
    """Return the exit code that a shell gives a program ended by a signal."""
    return 128 + (_interrupts[0] if _interrupts else signal.SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; during an import, end the program at once instead.

    There NumPy would turn the exception into an ImportError, and PyTorch's C++ would abort.
    """
    _interrupts.append(number)
    if _holds and len(_interrupts) == 1:
        return
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            if not _follows:
                print_error(_INTERRUPTED)
            os._exit(_exit_code())
        frame = frame.f_back
    raise KeyboardInterrupt


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Delay a first interrupt to the end of the block, so that the block runs whole."""
    _holds.append(True)
    try:
        yield
    finally:
        _holds.pop()
    _raise_lost_interrupt()


def interrupted_by() -> int:
    """Return the number of the first signal received, 0 without one."""
    return _interrupts[0] if _interrupts else 0


def interrupt(number: int) -> NoReturn:
    """End as after a signal of this number, which another process may have received."""
    _interrupts.append(number)
    raise KeyboardInterrupt


def leave_printing_to_the_first_process() -> None:
    """Print no more, except for an error that does not end the first process too."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    warnings.simplefilter("ignore")
    _follows.append(True)


def _raise_lost_interrupt() -> None:
    """Raise again an interrupt that Python ignored, for instance in __del__."""
    if _interrupts and not _holds:
        raise KeyboardInterrupt


def _ignore_unraisable(ignored: sys.UnraisableHookArgs) -> None:
    """Print an exception that Python ignores as a warning line; an interrupt is raised later."""
    if not isinstance(ignored.exc_value, KeyboardInterrupt):
        print_warning(described(ignored.exc_value or ignored.exc_type()))


def _stop(code: int, message: str) -> NoReturn:
    if os.environ.get(TRACEBACK_VARIABLE) and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if _follows:
        _wait_to_be_ended()
    if not (_follows and _interrupts):
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


def print_error(message: str) -> None:
    """Print an error line to standard error."""
    print(f"{Fore.RED}{Style.BRIGHT}error:{Style.RESET_ALL} {printable(message)}", file=sys.stderr)


def print_warning(message: str) -> None:
    """Print a warning line to standard error."""
    print(f"{Fore.YELLOW}warning:{Style.RESET_ALL} {printable(message)}", file=sys.stderr)


def printable(text: str) -> str:
    """Escape line breaks and control characters, which names in a stranger's file may contain."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def print_line(message: str) -> None:
    """Print a line of ordinary output, and flush it."""
    _raise_lost_interrupt()
    print(message, flush=True)


def print_heading(message: str) -> None:
    """Print a line that stands out."""
    print_line(f"{Style.BRIGHT}{message}{Style.RESET_ALL}")


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lay out rows under a header: the first column to the left, the others to the right."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def whole_number(minimum: int, maximum: int = _LARGEST) -> Callable[[str], int]:
    """Make an argparse type: a whole number of at least `minimum`, at most `maximum`."""
    expected = f"expected a whole number of at least {minimum} and at most {maximum}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{expected}, got {shown(text)}")
        return value

    return parse


def _number(expected: str, is_valid: Callable[[float], bool]) -> Callable[[str], float]:
    """Make an argparse type: a number that `is_valid` accepts; NaN must not pass."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not is_valid(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {shown(text)}")
        return value

    return parse


finite_number = _number("a number", math.isfinite)
positive_number = _number("a number above 0", lambda value: 0 < value < math.inf)
number_from_zero = _number("a number of at least 0", lambda value: 0 <= value < math.inf)
positive_share = _number("a number above 0, below 1", lambda value: 0 < value < 1)
share_below_one = _number("a number from 0, below 1", lambda value: 0 <= value < 1)  # a dropout


def truth_value(text: str) -> bool:
    """Parse an argparse value: true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {shown(text)}")
    return text.lower() == "true"


class OneOf:
    """An argparse type: one of the `names`."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, text: str) -> str:
        """Return `text` if it is a name."""
        if text not in self.names:
            expected = " or ".join(self.names)
            raise argparse.ArgumentTypeError(f"expected {expected}, got {shown(text)}")
        return text


def file_path(text: str) -> Path:
    """Parse an argparse value: a path, in which ~ is the home directory."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"there is no home directory for {shown(text)}") from error


def device_name(text: str) -> str:
    """Parse an argparse value: auto, cpu, cuda or cuda:N."""
    if re.fullmatch("auto|cpu|cuda(:(0|[1-9][0-9]?))?", text):
        return text
    raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N, got {shown(text)}")
