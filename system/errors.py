"""The one error that both programs show to their user, and how it quotes others."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave is wrong.

    The message is one line that names what is wrong (file, value found, value expected)
    and what to do about it. The programs print it and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
