"""What a compiled encoder is asked to do, and the same in PyTorch's operators.

Shapes: B batch, T tokens that come in, Q tokens that come out, M memory tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.layers.encoder import Encoder
from models.native.weights import Weights


@dataclass(frozen=True)
class Request:
    """A call of an encoder, besides its tensors."""

    encoder: Encoder  # whose formula it is
    last_tokens_only: int | None
    dropout_keys: Tensor | None  # (B,) int64 below 2**32; None: no dropout
    threads: int = 1  # on a CPU

    def queries(self, tokens: int) -> int:
        """Return how many of `tokens` tokens come out."""
        return tokens if self.last_tokens_only is None else min(self.last_tokens_only, tokens)

    def formula(self, x: Tensor, memory: Tensor | None) -> Tensor:
        """Do the same in PyTorch's operators."""
        return self.encoder.formula(x, memory, self.last_tokens_only, self.dropout_keys)


class CompiledEncoder(Protocol):
    """Compiled code for encoders of some sizes, on some kind of device."""

    weights: Weights
    longest: float  # tokens that it takes at most

    def encode(
        self, request: Request, x: Tensor, memory: Tensor | None, weights: list[Tensor]
    ) -> Tensor:
        """Encode `x` `(B, T, d)` with `memory` `(B, M, d)` to `(B, Q, d)`, in float32.

        `weights` are those of `plain_weights`. Nothing is checked here.
        """


def differentiable_grads(
    out: Tensor,
    inputs: Sequence[Tensor | None],
    is_wanted: Sequence[bool],
    grad_out: Tensor,
) -> list[Tensor | None]:
    """Return the gradients of `out` for those of `inputs` that are wanted, to go on from."""
    both = zip(inputs, is_wanted, strict=True)
    wanted = [value for value, wants in both if wants and value is not None]
    grads = iter(torch.autograd.grad(out, wanted, grad_out, create_graph=True))
    return [next(grads) if wants else None for wants in is_wanted]
