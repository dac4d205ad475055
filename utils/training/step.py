"""A model that learns: one optimizer step on one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.loading.split import Batch, LoaderOptions
from models.nhfnet import NHFNet
from utils.running.computing import CudaGraph, Execution
from utils.training.schedules import make_scheduler
from utils.training.settings import TrainingSettings


class TrainingStep:
    """A model with its optimizer and learning-rate schedule, on the loading's device."""

    def __init__(
        self,
        model: NHFNet,
        settings: TrainingSettings,
        loading: LoaderOptions,
        computing: Execution,
    ) -> None:
        self.model = model.to(loading.device)
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.scheduler = make_scheduler(settings.scheduler, self.optimizer, settings.epochs)
        self._settings, self._loading, self._computing = settings, loading, computing
        # On CUDA the rate stays in one place on the device, where a CUDA graph reads it.
        self._rates = [
            torch.tensor(settings.lr, device=loading.device) for _ in self.optimizer.param_groups
        ]
        self._adapt_optimizer()
        self._forward: nn.Module = model
        if loading.processes.count > 1:
            self._forward = DistributedDataParallel(model)
        self._prepared = computing.prepared(self._forward)
        self._learn_alone = CudaGraph(
            lambda *tensors: self._learn(self._prepared, len(tensors[0]), *tensors),
            lambda *tensors: self._learn(self._forward, len(tensors[0]), *tensors),
            loading.batch_size,
        )

    @property
    def lr(self) -> float:
        """The learning rate now."""
        return round(float(self.optimizer.param_groups[0]["lr"]), 10)  # a float32's digits on CUDA

    def step(self, batch: Batch, keys: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Learn from this process's share of a batch of `rows` segments.

        `keys` `(B,)` decide what dropout drops. Returns the share's predictions `(B,)`, made
        before the weights change, and its part of the batch's loss, both detached.
        """
        device = self._loading.device
        tensors = [x.to(device, non_blocking=True) for x in (*batch.inputs, keys, batch.label)]
        if self._loading.processes.count == 1:
            return self._learn_alone(*tensors)
        if len(keys):
            return self._learn(self._prepared, rows, *tensors)
        # A process without a share still takes part in the others' gradients.
        tensors = [x.new_zeros(1, *x.shape[1:]) for x in tensors]
        prediction, loss = self._learn(self._forward, rows, *tensors, weight=0.0)
        return prediction[:0], loss

    def _learn(
        self,
        forward: Callable[..., Tensor],
        rows: int,
        visual: Tensor,
        audio: Tensor,
        text: Tensor,
        keys: Tensor,
        label: Tensor,
        weight: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        with self._computing.autocast(label.device):
            prediction = forward(visual, audio, text, keys).float()
        # The loss is a mean over rows; DistributedDataParallel averages over the processes.
        loss = nn.functional.mse_loss(prediction, label, reduction="sum")
        loss = loss * (weight * self._loading.processes.count / rows)
        self.optimizer.zero_grad()
        loss.backward()
        if self._settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.grad_clip)
        self.optimizer.step()
        return prediction.detach()[:, 0], loss.detach()

    def end_epoch(self, mae: float) -> None:
        """Let the schedule see the validation MAE of the epoch that is over."""
        if self.scheduler is not None:
            self.scheduler.step(mae)
            self._adapt_optimizer()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer and the schedule; the model has its own."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state, of whatever device."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._adapt_optimizer()
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])

    def _adapt_optimizer(self) -> None:
        """Make the optimizer's groups fit the device, whatever put values into them."""
        is_cuda = self._loading.device.type == "cuda"
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            lr = float(group["lr"])
            group["lr"] = rate.fill_(lr) if is_cuda else lr
            group["capturable"] = is_cuda
