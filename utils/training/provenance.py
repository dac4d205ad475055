"""What `run.json` records about a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from models.text_encoder import text_encoder_of
from system.config import plain_values
from utils.running.environment import command_line, environment
from utils.tasks import Scores

if TYPE_CHECKING:
    from utils.training.trainer import Trainer


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
    trainer: Trainer, data: dict[str, Any], earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record of a run that starts.

    `earlier` is the record of the run when it began, if it goes on or begins again.
    """
    config, encoder = trainer.config, text_encoder_of(trainer.model)
    started, resumed = earlier.get("started"), earlier.get("resumed")  # damaged, of any type
    resumed = resumed if isinstance(resumed, list) else []
    return {
        "config": plain_values(config),
        "model_digest": trainer.saver.model_file,
        "command": command_line(),
        "dataset": data,
        "bert": None if encoder is None else encoder.origin,
        "checkpoint_digest": trainer.saver.start,
        **environment(trainer.options.device),
        "started": started if isinstance(started, str) else now(),
        "resumed": [*resumed, now()] if earlier else [],
        "ended": None,
    }
