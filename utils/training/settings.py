"""What decides how a training goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the command line holds the defaults."""

    lr: float
    epochs: int
    seed: int
    log_interval: int  # batches between two lines of the running loss
    checkpointdir: Path | None  # None: save nothing
    weight_decay: float = 0.0
    scheduler: str = "none"
    grad_clip: float | None = None  # largest norm of all gradients together
    patience: int | None = None  # epochs without a better validation MAE
    save_every: int | None = None  # steps between two savings within an epoch

    def decisive(self) -> dict[str, Any]:
        """Return what decides the course of a training, epoch by epoch."""
        names = ("lr", "seed", "weight_decay", "scheduler", "grad_clip")
        decisive = {name: getattr(self, name) for name in names}
        if self.scheduler == "cosine":
            decisive["epochs"] = self.epochs
        return decisive
