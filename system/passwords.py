"""Passwords, which belong into no file and onto no screen."""

from __future__ import annotations

import re

# As SQLAlchemy reads a URL: what stands before its first @, and settings in its query.
_OF_A_USER = re.compile(r"(://[^:/@]*):[^@]*@")
_LAST_OR_ONLY = re.compile(r"[?&](?:ssl)?password=[^&]*$")
_IN_THE_QUERY = re.compile(r"(?<=[?&])(?:ssl)?password=[^&]*&")


def without_passwords(text: str) -> str:
    """Return a URL, or a text with one, without the passwords that it gives."""
    return _LAST_OR_ONLY.sub("", _IN_THE_QUERY.sub("", _OF_A_USER.sub(r"\1@", text)))
