"""The one error that both programs show to their user, and how it quotes others."""

from __future__ import annotations

import reprlib
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100  # characters


class InputError(Exception):
    """Something the user gave is wrong.

    The message is one line that names what is wrong (file, value found, value expected)
    and what to do about it. The programs print it and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shown(value: Any) -> str:
    """Return a value from a strange file, of whatever type and size, in a short line."""
    return " ".join(_SHORT.repr(value).split())
