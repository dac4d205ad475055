"""What both readers of pickles have in common."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NoReturn


class Instructions(dict[int, Callable[[Any], None]]):
    """What a pickle's instructions do, by their byte; UnpicklingError for any other byte."""

    def __missing__(self, code: int) -> NoReturn:
        raise pickle.UnpicklingError(f"{code:#04x} is no instruction of a pickle")


def no_bytes() -> bytes:
    """Return b"", which protocols 0 to 2 have as a call of `bytes` without arguments."""
    return b""


def latin1_bytes(text: str, encoding: str) -> bytes:
    """Return the bytes that protocols 0 to 2 hold as text: the one use of `_codecs.encode`.

    Raises UnpicklingError for another use.
    """
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("an unusual encoding")
    return text.encode("latin-1")
