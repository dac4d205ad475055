"""What a training records of its epochs: metrics.csv, TensorBoard logs, lines on screen."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from system.files import atomic_write
from utils.reports.metrics import Scores

_BEST_BY_METRIC = {"Acc7": "acc7", "Acc2": "acc2", "F1": "f1", "Corr": "corr", "MAE": "mae"}


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training split gave."""

    number: int  # from 1
    loss: float  # mean squared error over the training split, while training
    lr: float
    speed: float  # training segments a second
    scores: dict[str, Scores]  # train (while training), val, test

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Epoch:
        """Undo `dataclasses.asdict`."""
        scores = {name: Scores(**its) for name, its in values["scores"].items()}
        return cls(**{**values, "scores": scores})


class Records:
    """Writes epochs to `<checkpointdir>/metrics.csv` and `<checkpointdir>/logs/<time>`."""

    def __init__(self, checkpointdir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        started = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        self._log = SummaryWriter(str(checkpointdir / "logs" / started))
        self._table = checkpointdir / "metrics.csv"

    def write(self, epochs: Sequence[Epoch]) -> None:
        """Write the table of all epochs anew, and log the last of them."""
        names = [field.name for field in fields(Scores)]
        with atomic_write(self._table) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "lr", "samples_per_second", "loss", "split", *names])
            for epoch in epochs:
                about = [epoch.number, epoch.lr, epoch.speed, epoch.loss]
                for split, scores in epoch.scores.items():
                    writer.writerow([*about, split, *asdict(scores).values()])
        self._log_epoch(epochs[-1])

    def _log_epoch(self, epoch: Epoch) -> None:
        add = self._log.add_scalar
        add("loss/train", epoch.loss, epoch.number)
        add("learning_rate", epoch.lr, epoch.number)
        add("samples_per_second", epoch.speed, epoch.number)
        for split, scores in epoch.scores.items():
            for metric, value in asdict(scores).items():
                if metric != "n":
                    add(f"{metric}/{split}", value, epoch.number)
        self._log.flush()


def epoch_line(name: str, scores: Scores) -> str:
    """Put one split's scores in a line."""
    return (
        f"  {name:<5}  MAE {scores.mae:.4f}  Corr {scores.corr:.4f}  "
        f"Acc-7 {100 * scores.acc7:.2f} %  Acc-2 {100 * scores.acc2:.2f} %  "
        f"F1 {100 * scores.f1:.2f} %"
    )


def picked_on_test(epochs: Sequence[Epoch]) -> list[str]:
    """Return the released code's own best lines: each score's best epoch on the test split."""
    lines = []
    for name, metric in _BEST_BY_METRIC.items():
        values = [getattr(epoch.scores["test"], metric) for epoch in epochs]
        best = int(np.argmin(values) if metric == "mae" else np.argmax(values))
        percent = metric not in ("mae", "corr")
        shown = f"{100 * values[best]:.2f} %" if percent else f"{values[best]:.4f}"
        lines.append(f"Best {name} {shown} at epoch {epochs[best].number}")
    return lines
