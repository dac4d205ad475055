"""Bytes as pickles of protocols 0 to 2 hold them: by calls of two names, answered here."""

from __future__ import annotations

import pickle


def no_bytes() -> bytes:
    """Return b"", which is a call of `bytes` without arguments."""
    return b""


def latin1_bytes(text: str, encoding: str) -> bytes:
    """Return the bytes that stand there as text: the one use of `_codecs.encode`.

    Raises UnpicklingError for another use.
    """
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("an unusual encoding")
    return text.encode("latin-1")
