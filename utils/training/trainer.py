"""The training loop: epochs of steps, each epoch followed by validation and test scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data.loading.batches import batches
from data.loading.on_device import place_splits
from data.loading.options import LoaderOptions
from data.loading.split import Split
from models.contract import Model
from models.layers.dropout import segment_keys
from system.console import print_line
from system.errors import InputError
from system.interrupts import hold_interrupts, interrupt, interrupted_by
from system.progress import progress
from utils.reports.evaluation import (
    Evaluation,
    NotFinite,
    Predictor,
    append_predictions,
    evaluate,
    evaluation_options,
    gather_rows,
    report_not_finite,
)
from utils.run_config import RunConfig
from utils.tasks import Scores, Task
from utils.training.history import Epoch, History
from utils.training.losses import Diverged, Losses
from utils.training.saved_state import TrainingSaver, TrainingState
from utils.training.step import TrainingStep


class Trainer:
    """Trains `model` on `splits["train"]`; the other splits are scored after each epoch.

    `data` describes the dataset, as `describe_data` returns it. The splits, val among them, fit
    the model and the task. With several processes, each works on its share of each batch, and the
    first one writes. `after_epoch` is called with each epoch; what it raises ends the training.
    """

    def __init__(
        self,
        model: Model,
        splits: dict[str, Split],
        task: Task,
        config: RunConfig,
        options: LoaderOptions,
        data: dict[str, Any],
        after_epoch: Callable[[Epoch], None] | None = None,
    ) -> None:
        self.model, self.task, self.config, self.options = model, task, config, options
        self.step = TrainingStep(model, task, config, options)
        self.splits = place_splits(splits, options)
        self.state = TrainingState()
        self.saver = TrainingSaver(self.step, data)
        self.evaluating = evaluation_options(options, self.splits["train"])
        self.predictor = Predictor(model, config.precision, self.evaluating)
        self._after_epoch = after_epoch
        self._is_within_step = False
        self._losses = Losses(splits["train"])

    @property
    def epochs(self) -> list[Epoch]:
        """The results of the epochs so far."""
        return self.state.epochs

    @property
    def best(self) -> Epoch:
        """The epoch with the best score on the validation split, the earliest of equals."""
        return self._best_of(self.epochs)

    def _best_of(self, epochs: Sequence[Epoch]) -> Epoch:
        return min(epochs, key=lambda epoch: self.task.to_minimise(epoch.scores["val"]))

    def _is_over(self, epochs: Sequence[Epoch]) -> bool:
        """Tell whether a training is complete after these epochs."""
        config, count = self.config, len(epochs)
        if count >= config.epochs or config.patience is None or not epochs:
            return count >= config.epochs
        return count - self._best_of(epochs).number >= config.patience

    def resume(self, path: Path) -> None:
        """Resume the training in `path` where it was saved.

        Raises InputError when the file holds no training, one with other data or settings, a
        damaged one, or one that would have ended earlier with this configuration.
        """
        self.state = self.saver.resume(path, len(self.splits["train"]))
        count = len(self.epochs)
        if ended := next((n for n in range(1, count) if self._is_over(self.epochs[:n])), None):
            name = "epochs" if ended == self.config.epochs else "patience"
            raise InputError(
                f"{path} has {count} epochs, but with --{name} {getattr(self.config, name)} its "
                f"training ends after epoch {ended}; give a larger number, or train anew in "
                "another --checkpointdir."
            )

    def run(self) -> None:
        """Train the remaining epochs; the model ends with the weights of the best epoch.

        Raises Diverged when a loss or a prediction is no longer a number; checkpoints stay as they
        are.
        """
        folder = self.config.checkpointdir
        writes = self.config.save and self.options.processes.is_first
        history = History(folder) if writes else None
        while not self._is_over(self.epochs):
            print_line(f"Epoch {self.state.epoch}/{self.config.epochs}")
            epoch = self._run_epoch()
            with hold_interrupts():  # an interrupt waits until all files of the epoch are saved
                self._end_epoch(epoch, history)
                self._stop_together()
            if self._after_epoch is not None:
                self._after_epoch(epoch)
        if len(self.epochs) < self.config.epochs:
            chosen_by = self.task.chosen_by.name
            print_line(
                f"Stopped: {self.config.patience} epochs without a better validation {chosen_by}"
            )
        self.model.load_state_dict(self.state.best_weights)
        if history is not None and not self.saver.has_best(self.best):
            # The best epoch was trained in another folder, or one that is not in `last.pth` was
            # better: a kill came between the two files.
            self.saver.save_best(self.best)
            history.write(self.epochs)

    def _end_epoch(self, epoch: Epoch, history: History | None) -> None:
        self.epochs.append(epoch)
        is_best = self.best is epoch
        if is_best:
            self.state.best_weights = deepcopy(self.model.state_dict())
        self.step.end_epoch(self.task.to_minimise(epoch.scores["val"]))
        self.state.begin_epoch(epoch.number + 1)
        if history is not None:
            self.saver.save_epoch(epoch, is_best)
            history.write(self.epochs)
        if self.config.save:
            self.saver.save_last(self.state)

    def _run_epoch(self) -> Epoch:
        number, begin = self.state.epoch, time.perf_counter()
        segments_before = self.state.step * self.options.batch_size  # in a resumed epoch
        lr = self.step.lr
        with self._saving_when_interrupted():
            loss, train_scores, train_not_finite = self.run_pass()
            seconds = time.perf_counter() - begin
            scores, not_finite = {"train": train_scores}, {"train": train_not_finite}
            for name in [name for name in self.splits if name != "train"]:
                evaluation = self._evaluate(name)
                scores[name], not_finite[name] = evaluation.scores, evaluation.not_finite
                self._stop_together()
            if number == 1:
                report_not_finite(not_finite)
            for name, split_scores in scores.items():
                print_line(f"  {name:<5}  {self.task.line(split_scores)}")
        speed = max(len(self.splits["train"]) - segments_before, 0) / seconds
        return Epoch(number, loss, lr, speed, scores)

    def _evaluate(self, name: str) -> Evaluation:
        """Score a split after the epoch's last step; raises Diverged."""
        try:
            return evaluate(self.predictor, self.splits[name], self.task, self.evaluating)
        except NotFinite as error:
            raise Diverged(
                f"{error} This is after epoch {self.state.epoch}; earlier checkpoints are kept."
            ) from error

    def run_pass(self) -> tuple[float, Scores, int]:
        """Take the remaining steps of the epoch.

        Returns, of the whole epoch, the mean loss and the scores of the predictions made during
        training, and the number of input values read as 0.
        """
        self.model.train()
        current, split = self.state, self.splits["train"]
        order, dropout_seed = self._order(current.epoch), self._random_number(current.epoch, 1)
        if current.step == 0 and self.step.draws:  # a resumed epoch restored the generator's state
            rank = self.options.processes.rank
            torch.manual_seed(self._random_number(current.epoch, 2) + rank)
        rows = self.options.rows(order)
        loader = batches(split, order[current.step * self.options.batch_size :], self.options)
        with progress(
            total=len(rows),
            initial=current.step,
            desc="Training",
            unit="step",
            leave=False,
            disable=None if self.options.verbose else True,  # None: no bar outside a terminal
        ) as bar:
            for batch in loader:
                with hold_interrupts():
                    self._is_within_step = True
                    batch_rows = rows[current.step]  # of all processes together
                    own_rows = torch.from_numpy(self.options.share(batch_rows))
                    keys = segment_keys(own_rows, dropout_seed)
                    epochs = current.epoch - 1 + (current.step + 1) / len(rows)
                    prediction, loss = self.step(batch, keys, len(batch_rows), epochs)
                    append_predictions(current.predicted, prediction)
                    current.not_finite += batch.not_finite
                    current.step += 1
                    self._losses.add(loss)
                    self._is_within_step = False
                bar.update()
                self._after_step(rows, bar)
                self._stop_together()
        self.step.share_buffers()
        predictions = gather_rows(torch.cat(current.predicted), len(order), self.options)
        labels = split.labels[order][:, self.task.columns]
        tensors = (torch.from_numpy(values).double() for values in (predictions, labels))
        mean_loss = self.task.loss(*tensors).mean().item()
        not_finite = sum(self.options.processes.gather(current.not_finite))
        return mean_loss, self.task.score(labels, predictions), not_finite

    @contextmanager
    def _saving_when_interrupted(self) -> Iterator[None]:
        """Save the current step when an interrupt ends the block, so that no step is lost.

        With several processes, an interrupt waits until all of them `_stop_together`.
        """
        if self.options.processes.count > 1:
            with hold_interrupts():
                yield
            return
        try:
            yield
        except KeyboardInterrupt:
            if not self._is_within_step:  # a second interrupt may end a step halfway: not saved
                self._save_position()
            raise

    def _stop_together(self) -> None:
        """If any of several processes was interrupted, save, and end all after the same step."""
        processes = self.options.processes
        if processes.count > 1 and (number := processes.highest(interrupted_by())):
            self._save_position()
            processes.highest(0)  # waits for the first process, which writes the file
            interrupt(number)

    def _save_position(self) -> None:
        """Save the training within the epoch, unless no step of it was taken or it has diverged.

        A diverged one cannot be resumed, and would replace an earlier position that can.
        """
        if not self.config.save or self.state.step == 0:
            return
        weights = self.model.parameters()
        is_finite = self._losses.are_finite() and all(bool(w.isfinite().all()) for w in weights)
        if not self.options.processes.highest(int(not is_finite)):
            self.saver.save_last(self.state)

    def _order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch's segments, by seed and epoch: the same when resumed."""
        rng = np.random.default_rng([self.config.seed, epoch])
        return rng.permutation(len(self.splits["train"]))

    def _random_number(self, epoch: int, purpose: int) -> int:
        """Return a number below 2**32 that depends on the seed, the epoch and the purpose."""
        return int(np.random.default_rng([self.config.seed, epoch, purpose]).integers(2**32))

    def _after_step(self, rows: Sequence[np.ndarray], bar: tqdm) -> None:
        """Check and show the loss, and save within the epoch, each at its interval."""
        step, every = self.state.step, self.config.save_every
        is_time = step % self.config.log_interval == 0 or step == len(rows)
        saves = self.config.save and step < len(rows)
        is_time_to_save = saves and every is not None and step % every == 0
        # Reading a loss waits for the device, so it is read at every step on a CPU only.
        if self.options.device.type == "cpu" or is_time or is_time_to_save:
            last_loss = self._losses.read(self.state.epoch, step, rows)
            bar.set_postfix(loss=f"{last_loss:.4f}", refresh=False)
            if is_time and self.options.verbose and bar.disable:
                print_line(f"  step {step}/{len(rows)}  loss {last_loss:.4f}")
        if is_time_to_save:
            self._save_position()
