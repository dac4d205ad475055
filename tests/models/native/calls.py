"""Recording the calls of compiled functions."""

from __future__ import annotations

from typing import Any

import pytest


def recorded_calls(monkeypatch: pytest.MonkeyPatch, compiled: Any, *names: str) -> list[str]:
    """Return a list to which each call of these functions of compiled code adds its name."""
    calls: list[str] = []
    for name in names:
        function = getattr(compiled, name)
        monkeypatch.setattr(
            compiled, name, lambda *args, f=function, n=name: (calls.append(n), f(*args))[1]
        )
    return calls
