"""The one error that both programs show to their user."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave is wrong.

    The message is one line that names what is wrong (file, value found, value expected)
    and what to do about it. The programs print it and exit with code 2.
    """
