"""Which compiled functions a test calls."""

from __future__ import annotations

from typing import Any

import pytest


def recorded_calls(monkeypatch: pytest.MonkeyPatch, compiled: Any, *names: str) -> list[str]:
    """Return a list that grows by a name whenever that function of compiled code is called."""
    seen: list[str] = []
    for name in names:
        function = getattr(compiled, name)
        monkeypatch.setattr(
            compiled, name, lambda *args, f=function, n=name: (seen.append(n), f(*args))[1]
        )
    return seen
