"""Training NHFNet."""

from __future__ import annotations

import math
import time
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.loading.on_device import load_onto_device
from data.loading.split import LoaderOptions, RowBatches, Split, batches
from models.checkpoint import load_weights, read_checkpoint, write_checkpoint
from models.layers.dropout import segment_keys
from models.nhfnet import NHFNet
from system.console import is_terminal, print_line
from system.errors import InputError
from system.progress import progress
from utils.reports.evaluation import append_predictions, evaluate, gather_rows, report_not_finite
from utils.reports.metrics import Scores, score
from utils.running.computing import FLOAT32, Execution, Predictor
from utils.training.history import Epoch, Records, epoch_line
from utils.training.settings import TrainingSettings
from utils.training.step import TrainingStep

LAST = "last.pth"  # what --resume goes on from
BEST = "best.pth"


@dataclass
class EpochProgress:
    """How far a training is: the epoch under way, and what its steps so far gave."""

    epoch: int = 1
    step: int = 0  # steps taken in it
    predicted: list[Tensor] = field(default_factory=list)  # this process's, by step
    not_finite: int = 0  # input values read as 0, this process's


class Trainer:
    """Trains `model` on `splits["train"]`; val and test are scored after each epoch.

    `about` goes into every checkpoint. The splits fit the model. Of several processes, each
    works on its share of each batch, and the first one writes.
    """

    def __init__(
        self,
        model: NHFNet,
        splits: dict[str, Split],
        settings: TrainingSettings,
        loading: LoaderOptions,
        about: dict[str, Any],
        computing: Execution = FLOAT32,
    ) -> None:
        self.learner = TrainingStep(model, settings, loading, computing)
        load_onto_device(splits.values(), loading)
        self.splits = splits
        self.settings = settings
        self.loading = loading
        self.epochs: list[Epoch] = []
        self.position = EpochProgress()
        self.predictor = Predictor(model, computing, loading.share_size)
        self._best_weights: dict[str, Tensor] = {}
        self._unseen: list[Tensor] = []  # losses since the last look
        self._about = {**about, "batch_size": loading.batch_size}
        self._precision = computing.precision

    @property
    def model(self) -> NHFNet:
        """What is trained."""
        return self.learner.model

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest MAE on the validation split."""
        return min(self.epochs, key=lambda epoch: epoch.scores["val"].mae)

    @property
    def _folder(self) -> Path | None:
        """Where this process saves, if it does."""
        return self.settings.checkpointdir if self.loading.processes.is_first else None

    def run(self) -> None:
        """Train the epochs that are left; the model ends with the weights of the best.

        Raises InputError when the loss is no longer a number; checkpoints stay as they are.
        """
        folder = self._folder
        records = None if folder is None else Records(folder)
        while self.position.epoch <= self.settings.epochs and not self._is_out_of_patience():
            print_line(f"Epoch {self.position.epoch}/{self.settings.epochs}")
            epoch = self._epoch()
            self.epochs.append(epoch)
            is_best = self.best is epoch
            if is_best:
                self._best_weights = deepcopy(self.model.state_dict())
            self.learner.end_epoch(epoch.scores["val"].mae)
            self.position = EpochProgress(epoch.number + 1)
            if folder is not None:
                self._save_epoch(folder, epoch, is_best)
                records.write(self.epochs)
            if self.settings.checkpointdir is not None:
                self.save_last(folder)
        if self.position.epoch <= self.settings.epochs:
            print_line(f"Stopped: {self.settings.patience} epochs without a better validation MAE")
        self.model.load_state_dict(self._best_weights)

    def _is_out_of_patience(self) -> bool:
        if self.settings.patience is None or not self.epochs:
            return False
        return len(self.epochs) - self.best.number >= self.settings.patience

    def _epoch(self) -> Epoch:
        number, begin = self.position.epoch, time.perf_counter()
        first_step, size = self.position.step, self.loading.batch_size
        lr = self.learner.lr
        loss, train_scores, not_finite = self._pass()
        seconds = time.perf_counter() - begin
        scores = {"train": train_scores}
        zeroed = {"train": not_finite}
        for name in ("val", "test"):
            evaluation = evaluate(self.predictor, self.splits[name], self.loading)
            scores[name] = evaluation.scores
            zeroed[name] = evaluation.not_finite
        if number == 1:
            report_not_finite(zeroed)
        for name, its_scores in scores.items():
            print_line(epoch_line(name, its_scores))
        speed = (len(self.splits["train"]) - first_step * size) / seconds
        return Epoch(number, loss, lr, speed, scores)

    def _pass(self) -> tuple[float, Scores, int]:
        """Take the epoch's steps that are left.

        Returns the mean loss, the scores of the predictions on the way, and the values read
        as 0, of the whole epoch.
        """
        self.model.train()
        position, split = self.position, self.splits["train"]
        order = self._order(position.epoch)
        rows, dropout_seed = self.loading.rows(order), self._dropout_seed(position.epoch)
        loader = batches(split, order[position.step * self.loading.batch_size :], self.loading)
        with self._bar(len(rows)) as bar:
            for batch in loader:
                whole = rows[position.step]
                keys = segment_keys(torch.from_numpy(self.loading.share(whole)), dropout_seed)
                prediction, loss = self.learner.step(batch, keys, len(whole))
                position.step += 1
                append_predictions(position.predicted, prediction)
                position.not_finite += batch.not_finite
                bar.update()
                self._watch(loss, rows, bar)
        predictions = gather_rows(position.predicted, len(order), self.loading)
        labels = split.labels[order]
        mean_loss = float(np.mean(np.square(predictions - labels, dtype=np.float64)))
        not_finite = sum(self.loading.processes.gather(position.not_finite))
        return mean_loss, score(labels, predictions), not_finite

    def _order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch's segments: by seed and epoch, so that it can go on."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        return rng.permutation(len(self.splits["train"]))

    def _dropout_seed(self, epoch: int) -> int:
        """Return what an epoch's dropout depends on besides the segment: the seed and the epoch."""
        return int(np.random.default_rng([self.settings.seed, epoch, 1]).integers(2**32))

    def _bar(self, steps: int) -> tqdm:
        return progress(
            total=steps,
            initial=self.position.step,
            desc="Training",
            unit="step",
            leave=False,
            disable=not (self.loading.verbose and is_terminal()),
        )

    def _watch(self, loss: Tensor, rows: RowBatches, bar: tqdm) -> None:
        """Look at the losses so far, report them, and save within the epoch, when it is time."""
        step, every = self.position.step, self.settings.save_every
        self._unseen.append(loss)
        is_time = step % self.settings.log_interval == 0 or step == len(rows)
        saves = self.settings.checkpointdir is not None and every is not None
        is_time_to_save = saves and step % every == 0 and step < len(rows)
        # Looking at a loss waits for the device.
        if self.loading.device.type == "cpu" or is_time or is_time_to_save:
            running = self._checked_losses(rows)
            bar.set_postfix(loss=f"{running:.4f}", refresh=False)
            if is_time and self.loading.verbose and bar.disable:
                print_line(f"  step {step}/{len(rows)}  loss {running:.4f}")
        if is_time_to_save:
            self.save_last(self._folder)

    def _checked_losses(self, rows: RowBatches) -> float:
        """Return the last loss; raises InputError when one since the last look is no number."""
        values = torch.stack(self._unseen).tolist()
        first = self.position.step - len(values)
        self._unseen.clear()
        for step, value in enumerate(values, start=first):
            if not math.isfinite(value):
                segments = list(self.splits["train"].ids)
                ids = ", ".join(segments[row] for row in rows[step])
                raise InputError(
                    f"The loss is {value} at epoch {self.position.epoch}, step {step + 1}: "
                    f"training has diverged, on the segments {ids}. Try a smaller --lr, or "
                    "--grad_clip. The checkpoints before are kept."
                )
        return values[-1]

    def _save_epoch(self, folder: Path, epoch: Epoch, is_best: bool) -> None:
        """Write `msaf_mosei_epoch{N}.pth`, and `best.pth` when it is the best so far."""
        details = {
            **self._about,
            "epoch": epoch.number,
            "optimizer_state_dict": self.learner.optimizer.state_dict(),
            "scores": {name: asdict(scores) for name, scores in epoch.scores.items()},
        }
        for name in [f"msaf_mosei_epoch{epoch.number}.pth"] + [BEST] * is_best:
            write_checkpoint(folder / name, self.model, asdict(self.model.sizes), **details)

    def save_last(self, folder: Path | None) -> None:
        """Write all that the training needs to go on; every process takes part."""
        state = self._state()
        if folder is not None:
            sizes = asdict(self.model.sizes)
            write_checkpoint(folder / LAST, self.model, sizes, **self._about, training=state)

    def _state(self) -> dict[str, Any]:
        position, gather = self.position, self.loading.processes.gather
        predicted = torch.cat([torch.empty(0), *(part.cpu() for part in position.predicted)])
        is_cuda = self.loading.device.type == "cuda"
        return {
            "settings": self._settings(),
            "epoch": position.epoch,
            "step": position.step,
            "predicted": gather(predicted),
            "not_finite": gather(position.not_finite),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            **self.learner.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.loading.device) if is_cuda else None,
            "best_weights": self._best_weights,
        }

    def _settings(self) -> dict[str, Any]:
        loading = self.loading
        return {
            **self.settings.decisive(),
            "precision": self._precision,
            "batch_size": loading.batch_size,
            "processes": loading.processes.count,
            "segments": len(self.splits["train"]),
        }

    def resume(self, path: Path) -> None:
        """Take up the training that `path` holds, where it was saved.

        Raises InputError when the file holds no such training, or one of other settings.
        """
        checkpoint = read_checkpoint(path)
        state = checkpoint.details.get("training")
        if not isinstance(state, dict):
            raise InputError(
                f"{path} holds weights, but no training to go on with; give {LAST}, or start from "
                "these weights with --checkpoint."
            )
        for name, value in self._settings().items():
            before = state["settings"].get(name)
            if before != value:
                raise InputError(
                    f"{path} was trained with {name} {before}, this is {value}; resume with the "
                    "same settings."
                )
        load_weights(self.model, checkpoint)
        self.learner.load_state_dict(state)
        self.epochs = [Epoch.from_dict(epoch) for epoch in state["epochs"]]
        rank, device = self.loading.processes.rank, self.loading.device
        predicted = [state["predicted"][rank].to(device)]
        not_finite = state["not_finite"][rank]
        self.position = EpochProgress(state["epoch"], state["step"], predicted, not_finite)
        self._best_weights = state["best_weights"]
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], device)
        print_line(f"Resumed from {path}: epoch {self.position.epoch}, step {self.position.step}")
