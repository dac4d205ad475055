"""Learning-rate schedules, stepped once an epoch with the validation MAE."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from utils.run_config import RunConfig


class _Cosine(CosineAnnealingLR):
    """Cosine annealing to 0 over all epochs, whatever the MAE."""

    def step(self, mae: float | None = None) -> Any:
        """Take the next rate; `mae` is not looked at."""
        return super().step()


def make_scheduler(config: RunConfig, optimizer: Optimizer) -> ReduceLROnPlateau | _Cosine | None:
    """Return the schedule that a run's configuration names; None for `none`."""
    if config.scheduler == "plateau":
        factor, patience = config.plateau_factor, config.plateau_patience
        return ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
    if config.scheduler == "cosine":
        return _Cosine(optimizer, T_max=config.epochs)
    return None
