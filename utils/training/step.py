"""One optimizer step on one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.loading.options import LoaderOptions
from data.loading.split import Batch
from models.contract import Model
from utils.run_config import RunConfig
from utils.running.cuda_graph import CudaGraph
from utils.running.execution import Execution
from utils.tasks import Task
from utils.training.schedules import make_scheduler


class TrainingStep:
    """A model with its optimizer and learning-rate schedule, on the options' device."""

    def __init__(self, model: Model, task: Task, config: RunConfig, options: LoaderOptions) -> None:
        self.model = model.to(options.device)
        self.takes_keys = getattr(model, "takes_dropout_keys", False)
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.scheduler = make_scheduler(config, self.optimizer)
        self.task, self._config, self._options = task, config, options
        self._execution = Execution(config.precision, config.compile)
        # On CUDA the rate stays in one place on the device, where a CUDA graph reads it.
        self._rates = [
            torch.tensor(config.lr, device=options.device) for _ in self.optimizer.param_groups
        ]
        self._adapt_optimizer()
        self._forward: nn.Module = model
        if options.processes.count > 1:
            self._forward = DistributedDataParallel(model)
        self._prepared = self._execution.prepared(self._forward)
        self._step_alone = CudaGraph(
            lambda *tensors: self._step(self._prepared, len(tensors[0]), *tensors),
            lambda *tensors: self._step(self._forward, len(tensors[0]), *tensors),
            options.batch_size,
        )

    @property
    def lr(self) -> float:
        """The learning rate now."""
        return round(float(self.optimizer.param_groups[0]["lr"]), 10)  # a float32's digits on CUDA

    @property
    def highest_lr(self) -> float:
        """The learning rate that schedules begin with, and never exceed."""
        return self._config.lr

    def __call__(self, batch: Batch, keys: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Learn from this process's share of a batch of `rows` segments.

        `keys` `(B,)` decide what dropout drops, in a model that takes them. Returns the share's
        predictions `(B, outputs)`, made before the weights change, and its part of the batch's
        loss, both detached.
        """
        device = self._options.device
        targets = batch.labels[:, self.task.columns]
        tensors = [x.to(device, non_blocking=True) for x in (*batch.inputs, keys, targets)]
        if self._options.processes.count == 1:
            prediction, loss = self._step_alone(*tensors)
            return prediction, loss
        if len(keys):
            return self._step(self._prepared, rows, *tensors)
        # A process without a share still takes part in the others' gradients.
        tensors = [x.new_zeros(1, *x.shape[1:]) for x in tensors]
        prediction, loss = self._step(self._forward, rows, *tensors, weight=0.0)
        return prediction[:0], loss

    def _step(
        self,
        forward: Callable[..., Tensor],
        rows: int,
        visual: Tensor,
        audio: Tensor,
        text: Tensor,
        keys: Tensor,
        targets: Tensor,
        *,
        weight: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        inputs = (visual, audio, text, keys) if self.takes_keys else (visual, audio, text)
        with self._execution.autocast(targets.device):
            prediction = forward(*inputs).float()
        # The loss is a mean over rows; DistributedDataParallel averages over the processes.
        loss = self.task.loss(prediction, targets).sum()
        loss = loss * (weight * self._options.processes.count / (rows * targets.shape[1]))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
        if self._config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._config.grad_clip)
        self.optimizer.step()
        return prediction.detach(), loss.detach()

    def end_epoch(self, score: float) -> None:
        """Let the schedule see the validation score, lower is better, of the epoch that is over."""
        if self.scheduler is not None:
            self.scheduler.step(score)
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
