"""The optimizer of a training, and how its learning rate changes.

It is Adam, and for a text encoder that is trained along, AdamW's way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from models.contract import Model
from models.text_encoder import text_encoder_of
from utils.run_config import RunConfig


def make_optimizer(model: Model, config: RunConfig) -> Adam:
    """Return Adam over what the model learns: its own parameters, the first group, and its BERT's.

    Those have a learning rate and a decay of their own, apart from the gradient (Loshchilov and
    Hutter, ICLR 2019), and none on biases and norms (Devlin et al., NAACL 2019).
    """
    encoder = text_encoder_of(model)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if encoder is not None:
        of_encoder = [one for one in encoder.parameters() if one.requires_grad]
        known = set(map(id, encoder.parameters()))
        groups[0]["params"] = [one for one in model.parameters() if id(one) not in known]
        for decay, is_matrix in ((config.bert_weight_decay, True), (0.0, False)):
            params = [one for one in of_encoder if (one.dim() > 1) is is_matrix]
            options = {"lr": config.bert_lr, "weight_decay": decay}
            if params:
                groups.append({"params": params, "decoupled_weight_decay": True, **options})
    return Adam(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


@contextmanager
def warming_up(optimizer: Adam, share: float) -> Iterator[None]:
    """Have all groups but the first learn at a `share` of their rates, while the block lasts."""
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
    """Return the schedule that a run's configuration names, a step an epoch; None for `none`."""
    if config.scheduler == "plateau":
        factor, patience = config.plateau_factor, config.plateau_patience
        return ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
    if config.scheduler == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.epochs)
    return None
