"""A compiled encoder as a function that PyTorch can differentiate.

Shapes: B batch, T input tokens, Q output tokens, M memory tokens, d width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.layers.encoder import Encoder
from models.native.packing import packed_weights
from models.native.plain_call import aligned, grads_by_formula, is_plain_call
from models.native.weights import Weights, named_weights


@dataclass(frozen=True)
class Request:
    """The arguments of an encoder's call, except its tensors."""

    encoder: Encoder  # with the formula and the weights
    last_tokens_only: int | None
    dropout_keys: Tensor | None  # (B,) int64 below 2**32; None: no dropout
    threads: int = 1  # on a CPU

    def queries(self, tokens: int) -> int:
        """Return the number of output tokens for `tokens` input tokens."""
        return min(self.last_tokens_only or tokens, tokens)

    def formula(self, x: Tensor, memory: Tensor | None) -> Tensor:
        """Compute the same with PyTorch's operators."""
        return self.encoder.formula(x, memory, self.last_tokens_only, self.dropout_keys)


class CompiledEncoder(Protocol):
    """Compiled code for encoders of given sizes, on one kind of device. It checks nothing."""

    weights: Weights

    def forward(
        self, request: Request, x: Tensor, memory: Tensor | None, packed: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Encode `x` `(B, T, d)` with `memory` `(B, M, d)` to `(B, Q, d)`, all float32.

        `packed` are the concatenated weights. Also returns, if the call `learns`, the values that
        `backward` takes as `kept`, else None.
        """

    def backward(
        self,
        request: Request,
        x: Tensor,
        memory: Tensor | None,
        packed: Tensor,
        kept: Tensor,
        grad_out: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the gradients of `x`, `memory` and the packed weights."""


def encode(
    compiled: CompiledEncoder,
    request: Request,
    x: Tensor,
    memory: Tensor | None,
    weights: list[Tensor],
) -> Tensor:
    """Encode `x` `(B, T, d)` with `memory` `(B, M, d)` to `(B, Q, d)`, in float32.

    `weights` are those of `plain_weights`. Nothing is checked here.
    """
    x, memory = x.float().contiguous(), None if memory is None else memory.float().contiguous()
    packed = packed_weights(request.encoder, weights)
    out: Tensor = _Encode.apply(  # type: ignore[no-untyped-call]  # torch has no type for it
        compiled, request, torch.is_grad_enabled(), x, memory, packed
    )
    return out


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        compiled: CompiledEncoder,
        request: Request,
        is_grad_enabled: bool,
        x: Tensor,
        memory: Tensor | None,
        packed: Tensor,
    ) -> Tensor:
        learns = is_grad_enabled and any(ctx.needs_input_grad)
        out, kept = compiled.forward(request, x, memory, packed, learns)
        if learns:
            # The keys too: if they changed before the backward pass, it would use another mask.
            ctx.save_for_backward(x, memory, packed, kept, request.dropout_keys)
            ctx.compiled, ctx.request = compiled, request
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, memory, packed, kept, keys = ctx.saved_tensors
        compiled, request = ctx.compiled, replace(ctx.request, dropout_keys=keys)
        if torch.is_grad_enabled() or not is_plain_call(grad_out):

            def formula(x: Tensor, memory: Tensor | None, packed: Tensor) -> Any:
                weights = _weights_by_name(request.encoder, compiled.weights, packed)
                return functional_call(_Formula(request), weights, (x, memory))

            needs_grad = ctx.needs_input_grad[3:]
            grads = grads_by_formula(formula, (x, memory, packed), needs_grad, grad_out)
            return None, None, None, *grads
        x, packed, kept, grad_out = map(aligned, (x, packed, kept, grad_out))
        memory = None if memory is None else aligned(memory)
        return None, None, None, *compiled.backward(request, x, memory, packed, kept, grad_out)


class _Formula(nn.Module):
    """A request as a module, for a call with other weights."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.encoder = request.encoder
        self._request = request

    def forward(self, x: Tensor, memory: Tensor | None) -> Tensor:
        return self._request.formula(x, memory)


def _weights_by_name(encoder: Encoder, listed: Weights, packed: Tensor) -> dict[str, Tensor]:
    """Return views of the packed weights by their names within `_Formula`."""
    named = named_weights(encoder, listed)
    parts = torch.split(packed, [weight.size for _, weight in named])
    return {
        f"encoder.{name}": part.view(weight.shape)
        for (name, weight), part in zip(named, parts, strict=True)
    }
