"""The attention weights of a real forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.layers.encoder import Encoder

Calls = dict[str, list[list[Tensor]]]


class AttentionMap(NamedTuple):
    """Attention weights, averaged over heads.

    Rows attend to columns. `rows` and `columns` have the number of positions by kind, in order.
    """

    weights: Tensor  # (layers, B, rows, columns); each row sums to 1
    layers: list[str]  # their names
    rows: dict[str, int]
    columns: dict[str, int]


class HasAttention(Protocol):
    """A model with attention maps, and the maps' names."""

    ATTENTION_MAPS: tuple[str, ...]

    def with_attention(
        self, visual: Tensor, audio: Tensor, text: Tensor
    ) -> tuple[Tensor, Mapping[str, AttentionMap]]:
        """Return the prediction, and the maps that the configuration has, by name."""


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[Calls]:
    """Record the attention weights of the encoders in `model` during the block.

    Yields, by the encoder's name in the model, a list with an entry for each of its calls: the
    weights `(B, H, T, M)` of each layer, before dropout.
    """
    calls: Calls = {}
    hooks = []
    for name, encoder in model.named_modules():
        if isinstance(encoder, Encoder):
            record = calls[name] = []
            hooks.append(encoder.register_forward_pre_hook(lambda *_, r=record: r.append([])))
            for layer in encoder.layers:
                softmax = layer.self_attn.softmax
                hooks.append(  # the third argument of a forward hook is the output: the weights
                    softmax.register_forward_hook(lambda *args, r=record: r[-1].append(args[2]))
                )
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def mean_over_heads(layers: Sequence[Tensor]) -> Tensor:
    """Average weights `(B, H, T, M)` of several layers to `(layers, B, T, M)`."""
    return torch.stack([weights.float().mean(dim=1) for weights in layers])


def layer_names(count: int, passes: int = 1) -> list[str]:
    """Name `count` layers, of each of `passes` passes."""
    names = [f"layer {number}" for number in range(1, count + 1)]
    if passes == 1:
        return names
    return [f"pass {number}, {name}" for number in range(1, passes + 1) for name in names]
