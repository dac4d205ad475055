"""Where a run came from: `run.json`."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import torch

from system.config import plain_values
from system.files import write_json
from utils.run_config import RunConfig
from utils.running.environment import command_line, environment
from utils.training.run_folder import RUN_FILE


def now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class RunRecord:
    """A run's `run.json`, written when the run starts and again when it has ended."""

    def __init__(self, config: RunConfig, data: dict[str, Any], device: torch.device) -> None:
        self._path = config.checkpointdir / RUN_FILE
        earlier = self._read() or {}
        self._content = {
            "config": plain_values(config),
            "command": command_line(),
            "dataset": data,
            **environment(device),
            "started": earlier.get("started") or now(),
            "resumed": [*earlier.get("resumed", []), now()] if earlier else [],
            "ended": None,
        }

    def _read(self) -> dict[str, Any] | None:
        """Return what a run that goes on wrote when it started."""
        with suppress(OSError, ValueError):
            content = json.loads(self._path.read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else None
        return None

    def write(self, ended: bool = False) -> None:
        """Write the file."""
        write_json(self._path, {**self._content, "ended": now() if ended else None})
