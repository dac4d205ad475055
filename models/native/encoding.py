"""A compiled encoder as a function that PyTorch can differentiate.

Shapes: B batch, T tokens that come in, Q tokens that come out, M memory tokens, d width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.layers.encoder import Encoder
from models.native.packing import packed_weights
from models.native.plain_call import as_new, grads_by_formula, is_plain_call
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
        return min(self.last_tokens_only or tokens, tokens)

    def formula(self, x: Tensor, memory: Tensor | None) -> Tensor:
        """Do the same in PyTorch's operators."""
        return self.encoder.formula(x, memory, self.last_tokens_only, self.dropout_keys)


class CompiledEncoder(Protocol):
    """Compiled code for encoders of some sizes, on some kind of device. It checks nothing."""

    weights: Weights
    longest: float  # tokens that it takes at most

    def forward(
        self, request: Request, x: Tensor, memory: Tensor | None, packed: Tensor, keeps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Encode `x` `(B, T, d)` with `memory` `(B, M, d)` to `(B, Q, d)`, all float32.

        `packed` are the weights, one behind the other. Beside it stands, where one `keeps` it,
        what `backward` needs.
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
        keeps = is_grad_enabled and any(ctx.needs_input_grad)
        out, kept = compiled.forward(request, x, memory, packed, keeps)
        if keeps:
            # The keys too: filled anew before the backward pass, they would choose another mask.
            ctx.save_for_backward(x, memory, packed, kept, request.dropout_keys)
            ctx.rest = compiled, request
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, memory, packed, kept, keys = ctx.saved_tensors
        compiled, request = ctx.rest
        request = replace(request, dropout_keys=keys)
        if torch.is_grad_enabled() or not is_plain_call(grad_out):

            def formula(x: Tensor, memory: Tensor | None, packed: Tensor) -> Any:
                weights = _by_name(request.encoder, compiled.weights, packed)
                return functional_call(_Formula(request), weights, (x, memory))

            is_wanted = ctx.needs_input_grad[3:]
            grads = grads_by_formula(formula, (x, memory, packed), is_wanted, grad_out)
            return None, None, None, *grads
        x, packed, kept, grad_out = map(as_new, (x, packed, kept, grad_out))
        memory = None if memory is None else as_new(memory)
        return None, None, None, *compiled.backward(request, x, memory, packed, kept, grad_out)


class _Formula(nn.Module):
    """A request as a module, whose weights can be others."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.encoder = request.encoder
        self._request = request

    def forward(self, x: Tensor, memory: Tensor | None) -> Tensor:
        return self._request.formula(x, memory)


def _by_name(encoder: Encoder, listed: Weights, packed: Tensor) -> dict[str, Tensor]:
    """Return views of the packed weights by their names within `_Formula`."""
    of_a_layer, of_the_norm = listed
    weights = [
        (f"encoder.layers.{n}.{weight.path}", weight)
        for n in range(len(encoder.layers))
        for weight in of_a_layer
    ]
    weights += [(f"encoder.{weight.path}", weight) for weight in of_the_norm]
    parts = torch.split(packed, [weight.size for _, weight in weights])
    return {
        name: part.view(weight.shape) for (name, weight), part in zip(weights, parts, strict=True)
    }
