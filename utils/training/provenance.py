"""What `run.json` records about a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import torch

from models.registry import model_digest
from system.config import plain_values
from utils.run_config import RunConfig
from utils.running.environment import command_line, environment
from utils.tasks import Scores


def now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class RunResult:
    """The results of a run."""

    epoch: int  # the best by validation
    scores: Scores  # of the test split at that epoch
    parameters: int
    flops: int | None  # of one segment's forward pass; None where they cannot be counted
    samples_per_second: float  # in training, the median over the epochs


def describe_run(
    config: RunConfig,
    data: dict[str, Any],
    device: torch.device,
    bert: str | None,
    start: str | None,
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the record of a run that starts.

    `bert` is the origin of its text encoder, `start` the digest of its --checkpoint; None without.
    `earlier` is the record of the run when it began, if it goes on or begins again.
    """
    started, resumed = earlier.get("started"), earlier.get("resumed")  # damaged, of any type
    resumed = resumed if isinstance(resumed, list) else []
    return {
        "config": plain_values(config),
        "model_digest": model_digest(config.model_name),
        "command": command_line(),
        "dataset": data,
        "bert": bert,
        "checkpoint_digest": start,
        **environment(device),
        "started": started if isinstance(started, str) else now(),
        "resumed": [*resumed, now()] if earlier else [],
        "ended": None,
    }
