"""The optimizer of a training and its learning-rate schedules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from models.contract import Model
from models.text_encoder import WithTextEncoder
from system.errors import InputError
from utils.run_config import RunConfig

DECOUPLED = "decoupled_weight_decay"  # an option of Adam, since PyTorch 2.7


def make_optimizer(model: Model, config: RunConfig) -> Adam:
    """Return Adam: its first group has the model's own parameters, the others its text encoder's.

    A text encoder has its own learning rate, and its own weight decay, apart from the gradient
    (Loshchilov and Hutter, ICLR 2019) and not on biases and norms (Devlin et al., NAACL 2019).
    Raises InputError where PyTorch's Adam has no such decay.
    """
    own = model.model if isinstance(model, WithTextEncoder) else model
    groups: list[dict[str, Any]] = [{"params": list(own.parameters())}]
    if isinstance(model, WithTextEncoder):
        trained = [p for p in model.text_encoder.parameters() if p.requires_grad]
        for decay, is_matrix in ((config.bert_weight_decay, True), (0.0, False)):
            params = [p for p in trained if (p.dim() > 1) is is_matrix]
            options = {"lr": config.bert_lr, "weight_decay": decay}
            if params:
                groups.append({"params": params, DECOUPLED: True, **options})
    optimizer = Adam(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    # Adam ignores options of a group that it does not know: it would decay by the gradient.
    has_decay = any(group["weight_decay"] for group in groups[1:])
    if has_decay and DECOUPLED not in optimizer.defaults:
        raise InputError(
            f"--bert_weight_decay {config.bert_weight_decay} needs PyTorch 2.7 or newer, this is "
            f"{torch.__version__}; install a newer one, or give --bert_weight_decay 0."
        )
    return optimizer


@contextmanager
def warming_up(optimizer: Adam, share: float) -> Iterator[None]:
    """Within the block, multiply the learning rates of all groups but the first by `share`."""
    groups = optimizer.param_groups[1:]
    rates = [group["lr"] for group in groups]
    if share < 1:
        for group in groups:
            group["lr"] = group["lr"] * share
    try:
        yield
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate


def make_scheduler(
    config: RunConfig, optimizer: Optimizer
) -> ReduceLROnPlateau | CosineAnnealingLR | None:
    """Return the schedule of `config.scheduler`, which takes one step an epoch; None for `none`."""
    if config.scheduler == "plateau":
        factor, patience = config.plateau_factor, config.plateau_patience
        return ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
    if config.scheduler == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.epochs)
    return None


def step_plateau(schedule: ReduceLROnPlateau, score: float) -> None:
    """Step a schedule with the epoch's score, of which lower is better; it may be negative.

    A score has to be lower than the best one by a share of it. A share of a negative one would be
    on its other side, so that equal scores would be better; there, the difference counts.
    """
    usual = schedule.threshold_mode
    if schedule.best < 0:
        schedule.threshold_mode = "abs"
    schedule.step(score)
    schedule.threshold_mode = usual  # files have it, of every version
