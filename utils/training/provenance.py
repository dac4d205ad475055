"""Where a run came from: `run.json`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from system.config import plain_values
from system.files import write_json
from utils.run_config import RunConfig
from utils.running.environment import command_line, environment
from utils.tasks import Scores
from utils.training.run_folder import RUN_FILE


def now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class RunResult:
    """What came out of a run."""

    epoch: int  # the best by validation
    scores: Scores  # of the test split at that epoch
    parameters: int
    flops: int | None  # of one segment's forward pass; None where they cannot be counted
    samples_per_second: float  # in training, the median over the epochs


class RunRecord:
    """A run's `run.json`, written when the run starts and again when it has ended."""

    def __init__(
        self, config: RunConfig, data: dict[str, Any], device: torch.device, bert: str | None
    ) -> None:
        """Keep what is to be written; `bert` is the origin of a text encoder."""
        self._path = config.checkpointdir / RUN_FILE
        earlier = read_record(config.checkpointdir) or {}
        self._content = {
            "config": plain_values(config),
            "command": command_line(),
            "dataset": data,
            "bert": bert,
            **environment(device),
            "started": earlier.get("started") or now(),
            "resumed": [*earlier.get("resumed", []), now()] if earlier else [],
        }

    def write(self, result: RunResult | None = None) -> None:
        """Write the file, at the end with what came out."""
        end = {} if result is None else {"ended": now(), "result": asdict(result)}
        write_json(self._path, {**self._content, "ended": None, **end})


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the `run.json` of a run's folder; None where there is none to be read."""
    with suppress(OSError, ValueError):
        content = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else None
    return None
