"""An encoder's weights as one array, which its calls within one pass of a model share.

Its gradients are then added up as one array, too, where the weights' own would be some fifty.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from models.layers.encoder import Encoder
from models.layers.tracing import is_tracing


class _Pass(threading.local):
    packed: dict[tuple[Encoder, bool], Tensor] | None = None  # None: outside a pass


_pass = _Pass()


def share_weights(model: nn.Module) -> None:
    """Have the calls of an encoder within one call of `model` share its packed weights."""
    model.register_forward_pre_hook(_begin)
    model.register_forward_hook(_end, always_call=True)


def _begin(_model: nn.Module, _inputs: Any) -> None:
    if not (torch.compiler.is_compiling() or is_tracing()):
        _pass.packed = {}


def _end(_model: nn.Module, _inputs: Any, _output: Any) -> None:
    if not (torch.compiler.is_compiling() or is_tracing()):
        _pass.packed = None


def packed_weights(encoder: Encoder, weights: list[Tensor]) -> Tensor:
    """Return the encoder's `weights` as one array `(values,)`; gradients go through to them."""
    shared, key = _pass.packed, (encoder, torch.is_grad_enabled())
    if shared is not None and key in shared:
        return shared[key]
    packed = torch.cat([weight.flatten() for weight in weights])
    if shared is not None:
        shared[key] = packed
    return packed
