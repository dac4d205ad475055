"""One optimizer step on one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from utils.running.execution import Compiled, autocast, count_parts, fewest_rows
from utils.tasks import Task
from utils.training.optimizer import make_optimizer, make_scheduler, step_plateau, warming_up


class TrainingStep:
    """A model with its optimizer and learning-rate schedule, on the options' device."""

    def __init__(self, model: Model, task: Task, config: RunConfig, options: LoaderOptions) -> None:
        self.model = model.to(options.device)
        self.takes_keys = getattr(model, "takes_dropout_keys", False)
        has_text_encoder = text_encoder_of(model) is not None
        # A text encoder's dropout draws from PyTorch's generator, whatever the model's does.
        self.draws = has_text_encoder or not self.takes_keys
        self._fewest_rows = fewest_rows(model)
        self.optimizer = make_optimizer(model, config)
        self.scheduler = make_scheduler(config, self.optimizer)
        self.task, self.config, self.options = task, config, options
        # On CUDA each rate stays in one tensor on the device, from which a CUDA graph reads it.
        self._rates = [
            torch.tensor(group["lr"], device=options.device)
            for group in self.optimizer.param_groups
        ]
        self._move_rates()
        self._forward: nn.Module = model
        if options.processes.count > 1:
            # A user's own model may have weights that it does not use.
            is_own = config.model_name not in MODELS
            self._forward = DistributedDataParallel(model, find_unused_parameters=is_own)
        self._compiled = Compiled(self._forward) if options.compiles else self._forward
        self._step_alone: Callable[..., tuple[Tensor, ...]] = partial(self._step, self._compiled)
        if not has_text_encoder:  # its warm-up changes rates at every step: no graph can replay it
            plain_step = partial(self._step, self._forward)
            self._step_alone = CudaGraph(self._step_alone, plain_step, options.batch_size)

    @property
    def lr(self) -> float:
        """The current learning rate."""
        lr = float(self.optimizer.param_groups[0]["lr"])
        return float(f"{lr:.7g}") if self.options.device.type == "cuda" else lr  # there a float32

    @property
    def highest_lrs(self) -> list[float]:
        """Each group's learning rate at the start, which schedules never exceed."""
        config = self.config
        return [config.lr] + [config.bert_lr] * (len(self.optimizer.param_groups) - 1)

    def __call__(
        self, batch: Batch, keys: Tensor, rows: int, epochs: float
    ) -> tuple[Tensor, Tensor]:
        """Take one step on this process's share of a batch of `rows` segments.

        `keys` `(B,)` decide what dropout drops, in a model that takes them. `epochs` is the number
        of epochs after this step, with a fraction; the warm-up depends on it. Returns the share's
        predictions `(B, outputs)` from before the step, and its part of the batch's loss, detached.
        """
        warmup = self.config.bert_warmup
        self._warm_share = min(1.0, epochs / warmup) if warmup else 1.0
        device = self.options.device
        targets = batch.labels[:, self.task.columns]
        tensors = [x.to(device, non_blocking=True) for x in (*batch.inputs, keys, targets)]
        if self.options.processes.count == 1:
            prediction, loss = self._step_alone(*tensors)
            return prediction, loss
        if len(keys):
            return self._step(self._compiled, *tensors, rows=rows)
        # A process without a share must still exchange gradients with the others.
        tensors = [x.new_zeros(1, *x.shape[1:]) for x in tensors]
        prediction, loss = self._step(self._forward, *tensors, weight=0.0)
        return prediction[:0], loss

    def _step(
        self,
        forward: Callable[..., Tensor],
        *tensors: Tensor,
        rows: int | None = None,
        weight: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Take a step on a batch's inputs, keys and targets; returns what `__call__` does."""
        *inputs, keys, targets = tensors
        # The loss is a mean over rows; DistributedDataParallel averages over the processes.
        weight *= self.options.processes.count / ((rows or len(targets)) * targets.shape[1])
        if self.takes_keys:
            inputs.append(keys)
        self.optimizer.zero_grad()
        prediction, loss = self._add_gradients(forward, inputs, targets, weight)
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        with warming_up(self.optimizer, self._warm_share):
            self.optimizer.step()
        return prediction, loss

    def _add_gradients(
        self,
        forward: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        targets: Tensor,
        weight: float,
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients, part by part, to keep the activations of only one part in memory.

        Returns the predictions, and their part of the batch's loss.
        """
        count = count_parts(len(targets), self.config.accumulation_steps, self._fewest_rows)
        predictions, losses = [], []
        parts = zip(*(x.tensor_split(count) for x in (*inputs, targets)), strict=True)
        for number, (*part_inputs, part_targets) in enumerate(parts, start=1):
            # Several processes exchange their gradients once, at the last part.
            no_sync = getattr(self._forward, "no_sync", nullcontext)
            with nullcontext() if number == count else no_sync():
                with autocast(self.config.precision, targets.device):
                    prediction = forward(*part_inputs).float()
                loss = self.task.loss(prediction, part_targets).sum() * weight
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            predictions.append(prediction.detach())
            losses.append(loss.detach())
        return torch.cat(predictions), torch.stack(losses).sum()

    @torch.no_grad()
    def share_buffers(self) -> None:
        """Give all processes the buffers of the first, which its files have.

        DistributedDataParallel does so before a step only. After one, each process has statistics
        of its own in BatchNorm, those of its share of the batches.
        """
        processes, buffers = self.options.processes, list(self.model.buffers())
        if processes.count > 1 and buffers:
            first_buffers = processes.broadcast([buffer.detach().cpu() for buffer in buffers])
            for buffer, first in zip(buffers, first_buffers, strict=True):
                buffer.copy_(first)

    def end_epoch(self, score: float) -> None:
        """Step the schedule with the epoch's validation score, of which lower is better."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            step_plateau(self.scheduler, score)
        elif self.scheduler is not None:
            self.scheduler.step()
        self._move_rates()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer and the schedule, without the model's.

        It is the same on every device: learning rates are numbers, not tensors.
        """
        optimizer, schedule = self.optimizer.state_dict(), None
        for group in optimizer["param_groups"]:
            group.update(lr=float(group["lr"]), capturable=False)
        if self.scheduler is not None:
            schedule = self.scheduler.state_dict()
            schedule["_last_lr"] = [float(rate) for rate in schedule["_last_lr"]]
        return {"optimizer": optimizer, "scheduler": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state, which may come from another device."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._move_rates()
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])

    def _move_rates(self) -> None:
        """Store the learning rates as the device needs them: tensors on CUDA, else numbers."""
        is_cuda = self.options.device.type == "cuda"
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            lr = float(group["lr"])
            group["lr"] = rate.fill_(lr) if is_cuda else lr
            group["capturable"] = is_cuda
