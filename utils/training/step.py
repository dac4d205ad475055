"""One optimizer step on one batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau

from data.loading.options import LoaderOptions
from data.loading.split import Batch
from models.contract import Model
from models.registry import MODELS
from models.text_encoder import text_encoder_of
from utils.run_config import RunConfig
from utils.running.cuda_graph import CudaGraph
from utils.running.execution import Compiled, autocast
from utils.tasks import Task
from utils.training.optimizer import make_optimizer, make_scheduler, warming_up


class TrainingStep:
    """A model with its optimizer and learning-rate schedule, on the options' device."""

    def __init__(self, model: Model, task: Task, config: RunConfig, options: LoaderOptions) -> None:
        self.model = model.to(options.device)
        self.takes_keys = getattr(model, "takes_dropout_keys", False)
        has_text_encoder = text_encoder_of(model) is not None
        # A text encoder's dropout draws from PyTorch's generator, whatever the model's does.
        self.draws = has_text_encoder or not self.takes_keys
        has_batch_norm = any(isinstance(one, nn.BatchNorm1d) for one in model.modules())
        self._least_rows = 2 if has_batch_norm else 1  # of a part: one has no variance
        self.optimizer = make_optimizer(model, config)
        self.scheduler = make_scheduler(config, self.optimizer)
        self.task, self._config, self._options = task, config, options
        # On CUDA the rate stays in one place on the device, where a CUDA graph reads it.
        self._rates = [
            torch.tensor(group["lr"], device=options.device)
            for group in self.optimizer.param_groups
        ]
        self._adapt_optimizer()
        self._forward: nn.Module = model
        if options.processes.count > 1:
            # A model of one's own may have weights that it does not use.
            is_own = config.model_name not in MODELS
            self._forward = DistributedDataParallel(model, find_unused_parameters=is_own)
        self._prepared = Compiled(self._forward) if options.compiles else self._forward
        self._step_alone: Callable[..., tuple[Tensor, ...]] = partial(self._step, self._prepared)
        if not has_text_encoder:  # what changes from step to step is in no graph
            other = partial(self._step, self._forward)
            self._step_alone = CudaGraph(self._step_alone, other, options.batch_size)

    @property
    def lr(self) -> float:
        """The learning rate now."""
        return round(float(self.optimizer.param_groups[0]["lr"]), 10)  # a float32's digits on CUDA

    @property
    def highest_lrs(self) -> list[float]:
        """The learning rate that schedules begin with, and never exceed, of each group."""
        config = self._config
        return [config.lr] + [config.bert_lr] * (len(self.optimizer.param_groups) - 1)

    def __call__(
        self, batch: Batch, keys: Tensor, rows: int, epochs: float
    ) -> tuple[Tensor, Tensor]:
        """Learn from this process's share of a batch of `rows` segments.

        `keys` `(B,)` decide what dropout drops, in a model that takes them; `epochs` are over with
        this step, which the warm-up goes by. Returns the share's predictions `(B, outputs)`, made
        before the weights change, and its part of the batch's loss, both detached.
        """
        warmup = self._config.bert_warmup
        self._warm_share = min(1.0, epochs / warmup) if warmup else 1.0
        device = self._options.device
        targets = batch.labels[:, self.task.columns]
        tensors = [x.to(device, non_blocking=True) for x in (*batch.inputs, keys, targets)]
        if self._options.processes.count == 1:
            prediction, loss = self._step_alone(*tensors)
            return prediction, loss
        if len(keys):
            return self._step(self._prepared, *tensors, rows=rows)
        # A process without a share still takes part in the others' gradients.
        tensors = [x.new_zeros(1, *x.shape[1:]) for x in tensors]
        prediction, loss = self._step(self._forward, *tensors, weight=0.0)
        return prediction[:0], loss

    def _step(
        self,
        forward: Callable[..., Tensor],
        visual: Tensor,
        audio: Tensor,
        text: Tensor,
        keys: Tensor,
        targets: Tensor,
        *,
        rows: int | None = None,
        weight: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        # The loss is a mean over rows; DistributedDataParallel averages over the processes.
        weight *= self._options.processes.count / ((rows or len(targets)) * targets.shape[1])
        inputs = (visual, audio, text, keys) if self.takes_keys else (visual, audio, text)
        self.optimizer.zero_grad()
        prediction, loss = self._learn(forward, inputs, targets, weight)
        if self._config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._config.grad_clip)
        with warming_up(self.optimizer, self._warm_share):
            self.optimizer.step()
        return prediction, loss

    def _learn(
        self,
        forward: Callable[..., Tensor],
        inputs: tuple[Tensor, ...],
        targets: Tensor,
        weight: float,
    ) -> tuple[Tensor, Tensor]:
        """Add the gradients of some rows; returns their predictions, and their part of the loss.

        It is done part by part, so that the activations of one alone are kept at a time.
        """
        count = min(self._config.accumulation_steps, max(len(targets) // self._least_rows, 1))
        predictions, losses = [], []
        parts = zip(*(x.tensor_split(count) for x in (*inputs, targets)), strict=True)
        for number, (*part, of_part) in enumerate(parts, start=1):
            # Several processes exchange their gradients with the last part's.
            no_sync = getattr(self._forward, "no_sync", nullcontext)
            with nullcontext() if number == count else no_sync():
                with autocast(self._config.precision, targets.device):
                    prediction = forward(*part).float()
                loss = self.task.loss(prediction, of_part).sum() * weight
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            predictions.append(prediction.detach())
            losses.append(loss.detach())
        return torch.cat(predictions), torch.stack(losses).sum()

    def end_epoch(self, score: float) -> None:
        """Let the schedule see the validation score, lower is better, of the epoch that is over."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(score)
        elif self.scheduler is not None:
            self.scheduler.step()
        self._adapt_optimizer()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer and the schedule; the model has its own.

        It is the same on every device: rates are numbers.
        """
        optimizer, schedule = self.optimizer.state_dict(), None
        for group in optimizer["param_groups"]:
            group.update(lr=float(group["lr"]), capturable=False)
        if self.scheduler is not None:
            schedule = self.scheduler.state_dict()
            schedule["_last_lr"] = [float(rate) for rate in schedule["_last_lr"]]
        return {"optimizer": optimizer, "scheduler": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state, of whatever device."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._adapt_optimizer()
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])

    def _adapt_optimizer(self) -> None:
        """Make the optimizer's groups fit the device, whatever put values into them."""
        is_cuda = self._options.device.type == "cuda"
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            lr = float(group["lr"])
            group["lr"] = rate.fill_(lr) if is_cuda else lr
            group["capturable"] = is_cuda
