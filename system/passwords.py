"""Removing passwords from texts that are printed or saved."""

from __future__ import annotations

import re

# As SQLAlchemy reads a URL: a password before the first @, and as a parameter of the query.
_USER_PASSWORD = re.compile(r"(://[^:/@]*):[^@]*@")
_LAST_PARAMETER = re.compile(r"[?&](?:ssl)?password=[^&]*$")
_OTHER_PARAMETER = re.compile(r"(?<=[?&])(?:ssl)?password=[^&]*&")


def without_passwords(text: str) -> str:
    """Return a URL, or a text with one, without its passwords."""
    return _LAST_PARAMETER.sub("", _OTHER_PARAMETER.sub("", _USER_PASSWORD.sub(r"\1@", text)))
