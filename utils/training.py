"""Training NHFNet."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.dataset import Batch, Loading, Split, batches
from data.errors import InputError
from models.checkpoint import write_checkpoint
from models.nhfnet import NHFNet

from .console import say
from .evaluation import evaluate, report_not_finite
from .metrics import Scores, score

_BEST_BY_METRIC = {"Acc7": "acc7", "Acc2": "acc2", "F1": "f1", "Corr": "corr", "MAE": "mae"}


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the command line holds the defaults."""

    lr: float
    epochs: int
    seed: int
    log_interval: int  # batches between two lines of the running loss
    checkpointdir: Path | None  # None: save nothing


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training split gave."""

    number: int  # from 1
    loss: float  # mean squared error over the training split, while training
    scores: dict[str, Scores]  # train (while training), val, test


class Trainer:
    """Trains `model` on `splits["train"]`; val and test are scored after each epoch.

    `about` goes into every checkpoint. The splits fit the model.
    """

    def __init__(
        self,
        model: NHFNet,
        splits: dict[str, Split],
        settings: TrainingSettings,
        loading: Loading,
        about: dict[str, Any],
    ) -> None:
        self.model = model.to(loading.device)
        self.splits = splits
        self.settings = settings
        self.loading = loading
        self.optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
        self.epochs: list[Epoch] = []
        self._about = about

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest MAE on the validation split."""
        return min(self.epochs, key=lambda epoch: epoch.scores["val"].mae)

    def run(self) -> None:
        """Train all epochs; the model ends with the weights of the best.

        Raises InputError when the loss is no longer a number; checkpoints stay as they are.
        """
        folder = self.settings.checkpointdir
        log = None if folder is None else _Log(folder)
        for number in range(1, self.settings.epochs + 1):
            say(f"Epoch {number}/{self.settings.epochs}")
            epoch = self._epoch(number)
            self.epochs.append(epoch)
            if self.best is epoch:
                best_weights = deepcopy(self.model.state_dict())
            if folder is not None:
                self._save(folder, epoch)
                log.write(epoch)
        self.model.load_state_dict(best_weights)

    def _epoch(self, number: int) -> Epoch:
        loss, train_scores, not_finite = self._pass(number)
        scores = {"train": train_scores}
        zeroed = {"train": not_finite}
        for name in ("val", "test"):
            evaluation = evaluate(self.model, self.splits[name], self.loading)
            scores[name] = evaluation.scores
            zeroed[name] = evaluation.not_finite
        if number == 1:
            report_not_finite(zeroed)
        for name, its_scores in scores.items():
            say(epoch_line(name, its_scores))
        return Epoch(number, loss, scores)

    def _pass(self, number: int) -> tuple[float, Scores, int]:
        """Take one pass; the mean loss, the scores on the way, and the values read as 0."""
        self.model.train()
        split = self.splits["train"]
        order = np.random.default_rng([self.settings.seed, number]).permutation(len(split))
        loader = batches(split, order, self.loading)
        predicted, losses, not_finite = [], [], 0
        for step, batch in enumerate(loader, start=1):
            prediction, loss = self._step(batch)
            predicted.append(prediction[:, 0])
            losses.append(loss * len(prediction))
            not_finite += batch.not_finite
            # Looking at the loss waits for the device: only now and then.
            if step % self.settings.log_interval == 0 or step == len(loader):
                value = _checked_loss(loss, number, step)
                if self.loading.verbose:
                    say(f"  step {step}/{len(loader)}  loss {value:.4f}")
        predictions = torch.cat(predicted).float().cpu().numpy()
        mean_loss = torch.stack(losses).sum().item() / len(split)
        return mean_loss, score(split.labels[order], predictions), not_finite

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step; the predictions `(B, 1)` and the loss before it, both detached."""
        device = self.loading.device
        prediction = self.model(*(x.to(device, non_blocking=True) for x in batch.inputs))
        loss = nn.functional.mse_loss(prediction, batch.label.to(device, non_blocking=True))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return prediction.detach(), loss.detach()

    def _save(self, folder: Path, epoch: Epoch) -> None:
        """Write `msaf_mosei_epoch{N}.pth`, and `best.pth` when it is the best so far."""
        details = {
            **self._about,
            "epoch": epoch.number,
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scores": {name: asdict(scores) for name, scores in epoch.scores.items()},
        }
        for name in [f"msaf_mosei_epoch{epoch.number}.pth"] + ["best.pth"] * (self.best is epoch):
            write_checkpoint(folder / name, self.model, asdict(self.model.sizes), **details)


class _Log:
    """TensorBoard logs under `<checkpointdir>/logs/<time>`."""

    def __init__(self, checkpointdir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        started = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        self._writer = SummaryWriter(str(checkpointdir / "logs" / started))

    def write(self, epoch: Epoch) -> None:
        """Write an epoch's loss and scores."""
        self._writer.add_scalar("loss/train", epoch.loss, epoch.number)
        for name, scores in epoch.scores.items():
            for metric, value in asdict(scores).items():
                if metric != "n":
                    self._writer.add_scalar(f"{metric}/{name}", value, epoch.number)
        self._writer.flush()


def _checked_loss(loss: Tensor, epoch: int, step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise InputError(
            f"The loss is {value} at epoch {epoch}, step {step}: training has diverged. Try a "
            "smaller --lr. The checkpoints of the epochs before are kept."
        )
    return value


def epoch_line(name: str, scores: Scores) -> str:
    """One split's scores in a line."""
    return (
        f"  {name:<5}  MAE {scores.mae:.4f}  Corr {scores.corr:.4f}  "
        f"Acc-7 {100 * scores.acc7:.2f} %  Acc-2 {100 * scores.acc2:.2f} %  "
        f"F1 {100 * scores.f1:.2f} %"
    )


def picked_on_test(epochs: list[Epoch]) -> list[str]:
    """The released code's own best lines: for each score, the best epoch on the test split."""
    lines = []
    for name, metric in _BEST_BY_METRIC.items():
        values = [getattr(epoch.scores["test"], metric) for epoch in epochs]
        best = int(np.argmin(values) if metric == "mae" else np.argmax(values))
        percent = metric not in ("mae", "corr")
        shown = f"{100 * values[best]:.2f} %" if percent else f"{values[best]:.4f}"
        lines.append(f"Best {name} {shown} at epoch {epochs[best].number}")
    return lines
