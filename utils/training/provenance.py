"""Where a run came from: `run.json`."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from system.config import plain_values
from system.files import write_json
from utils.run_config import RunConfig
from utils.tasks import Scores
from utils.training.run_folder import RUN_FILE

_PACKAGES = ("torch", "numpy", "scikit-learn")


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

    def __init__(self, config: RunConfig, data: dict[str, Any], device: torch.device) -> None:
        self._path = config.checkpointdir / RUN_FILE
        earlier = read_record(config.checkpointdir) or {}
        self._content = {
            "config": plain_values(config),
            "command": shlex.join(sys.argv),
            "dataset": data,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES},
            "revision": _revision(),
            "machine": _machine(device),
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


def _revision() -> str | None:
    """Return this program's git revision, marked where files differ from it; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _machine(device: torch.device) -> dict[str, Any]:
    is_cuda = device.type == "cuda"
    return {
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if is_cuda else str(device),
    }
