"""Passwords are removed from texts that are printed or saved."""

from __future__ import annotations

import sys

import pytest

from system.passwords import without_passwords
from utils.running.environment import command_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:secret@server:5432/a", "postgresql://me@server:5432/a"),
        ("postgresql://me:se/c:ret@server/a", "postgresql://me@server/a"),
        ("postgresql://server/a?password=secret", "postgresql://server/a"),
        ("postgresql://server/a?user=me&password=secret&port=1", None),
        (
            "--storage=mysql://me:secret@server/a?sslpassword=secret",
            "--storage=mysql://me@server/a",
        ),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("postgresql://me@server:5432/a", "postgresql://me@server:5432/a"),
        ("what?", "what?"),
    ],
)
def test_a_url_loses_its_passwords(text, expected):
    if expected is None:
        expected = "postgresql://server/a?user=me&port=1"
    assert without_passwords(text) == expected


def test_the_saved_command_has_no_password(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main_msaf.py", "--storage", "postgresql://me:secret@a/b"])
    assert command_line() == "main_msaf.py --storage postgresql://me@a/b"
