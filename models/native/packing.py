"""An encoder's weights as one array, which its calls within one forward pass of a model share.

Autograd then adds up the gradients of one array instead of some fifty weights; the gradients of the
weights are parts of it.
"""

from __future__ import annotations

import threading
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.layers.encoder import Encoder
from system.tracing import is_tracing


class _Packed(NamedTuple):
    array: Tensor
    weights: list[Tensor]  # that it was made from
    versions: list[int]

    def is_of(self, weights: list[Tensor]) -> bool:
        """Return whether it was made from these weights with their present values."""
        return self.versions == _versions(weights) and all(map(is_, self.weights, weights))


class _Pass(threading.local):
    packed: dict[tuple[Encoder, bool], _Packed] | None = None  # None: outside a pass


_pass = _Pass()


def share_weights(model: nn.Module) -> None:
    """Let all calls of an encoder within one call of `model` share its packed weights."""
    model.register_forward_pre_hook(_begin)
    model.register_forward_hook(_end, always_call=True)


def _begin(_model: nn.Module, _inputs: Any) -> None:
    if not (torch.compiler.is_compiling() or is_tracing()):
        _pass.packed = {}


def _end(_model: nn.Module, _inputs: Any, _output: Any) -> None:
    if not (torch.compiler.is_compiling() or is_tracing()):
        _pass.packed = None


def packed_weights(encoder: Encoder, weights: list[Tensor]) -> Tensor:
    """Return the encoder's `weights` as one array `(values,)`, differentiable.

    Weights that change within a pass are packed again, except where `.data` hides the change.
    """
    shared, key = _pass.packed, (encoder, torch.is_grad_enabled())
    if shared is not None and key in shared and shared[key].is_of(weights):
        return shared[key].array
    packed = torch.cat([weight.flatten() for weight in weights])
    # Tensors made in inference mode have no versions.
    if shared is not None and not any(map(torch.is_inference, weights)):
        shared[key] = _Packed(packed, weights, _versions(weights))
    return packed


def _versions(weights: list[Tensor]) -> list[int]:
    return [weight._version for weight in weights]
