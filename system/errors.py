"""The error that both programs show to their user, and how its message quotes others."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100  # characters
_NAMES_SHOWN = 3
_LONGEST_LINE = 300  # characters of a quoted message; Python quotes a damaged file's megabytes
# The words of PyTorch (CUDA and CPU), the operating system, HDF5, NumPy and C++.
_OUT_OF_MEMORY = re.compile(
    "out of memory|can(no|')t allocate memory|memory allocation failed|unable to allocate"
    "|bad_alloc",
    re.IGNORECASE,
)


class InputError(Exception):
    """Something the user gave is wrong.

    The message is one line that names what is wrong (file, value found, value expected)
    and what to do about it. The programs print it and exit with code 2.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception, of whatever library, says that memory ran out."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def refuse_if_out_of_memory(error: Exception, path: Path) -> None:
    """Raise InputError if memory ran out while reading `path`, which may then be a good file."""
    if is_out_of_memory(error):
        raise InputError(
            f"{path} takes more memory to read than is free; end other programs, or use a machine "
            "with more."
        ) from error


@contextmanager
def explain_reading(path: Path) -> Iterator[None]:
    """Have errors name `path`, which the block reads: the system's own name no file then.

    Raises InputError if memory runs out.
    """
    try:
        yield
    except InputError:  # which may quote any text
        raise
    except Exception as error:
        refuse_if_out_of_memory(error, path)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or str(path)
        raise


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, shortened; never a bare key or "".

    A line that ends with a colon, as PyTorch's lists begin, has the next one after it.
    """
    if isinstance(error, KeyError) and error.args:
        key = error.args[0]
        is_message = isinstance(key, str) and " " in key  # HDF5's
        text = key if is_message else f"no {shown(key)}"
    else:
        text = str(error)
    if not text.strip():
        text = "it ends too early" if isinstance(error, EOFError) else type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."


def described(error: BaseException) -> str:
    """Return an exception's type and its `first_line`; the type alone without a message."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def shown(value: Any) -> str:
    """Return the repr of a value, of whatever type and size, as one short line."""
    return " ".join(_SHORT.repr(value).split())


def first_names(names: Sequence[str]) -> str:
    """Return some names as text: the first three, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def differing(one: Any, other: Any) -> tuple[str, str]:
    """Return two different values as text; of two dicts, only the items that differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return str(one), str(other)
    names = [name for name in {**one, **other} if one.get(name, ...) != other.get(name, ...)]
    one_items = [f"{name}={one[name]}" for name in names if name in one]
    other_items = [f"{name}={other[name]}" for name in names if name in other]
    return ", ".join(one_items) or "the defaults", ", ".join(other_items) or "the defaults"
