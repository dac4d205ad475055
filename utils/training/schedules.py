"""Learning-rate schedules, stepped once an epoch with the validation MAE."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

_FACTOR, _PATIENCE = 0.5, 2  # halve after more than two epochs that are no better


class _Cosine(CosineAnnealingLR):
    """Cosine annealing to 0 over all epochs, whatever the MAE."""

    def step(self, mae: float | None = None) -> Any:
        """Take the next rate; `mae` is not looked at."""
        return super().step()


def make_scheduler(
    name: str, optimizer: Optimizer, epochs: int
) -> ReduceLROnPlateau | _Cosine | None:
    """Return a schedule of `run_config.SCHEDULES`, over `epochs` epochs; None for `none`."""
    if name == "plateau":
        return ReduceLROnPlateau(optimizer, factor=_FACTOR, patience=_PATIENCE)
    if name == "cosine":
        return _Cosine(optimizer, T_max=epochs)
    return None
