"""An encoder layer on a CPU: the numbers of `EncoderLayer`, in a fraction of the time.

Shapes: B batch, T tokens that come in, Q tokens that come out (the last ones), M tokens
attended to, d width, H heads, D = d / H.

What it saves, by measurement:
- PyTorch's softmax over short rows takes longer than both products around it. Here a one below
  each head's values lets the second product sum the exponentials too, and the division is of
  D numbers a query instead of M.
- Scores stand keys by queries, the order in which both products are quickest, and the
  projections come out channels by tokens, as those products want them: nothing is copied.
- Scores are made for a few samples at a time, in the cache, and once more in the backward
  pass, which takes less time than storing them.
- One node in the graph instead of some thirty, and random bits instead of `bernoulli_`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from .encoder import EncoderLayer

_CHUNK = 16  # samples whose scores stay in two cores' level-2 caches
_SAFE_SCORE = 60.0  # sums of exp(60) stay far below the largest float32, of exp(-60) above 0
_layer_norm = torch.ops.aten.native_layer_norm
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward


def is_for(x: Tensor) -> bool:
    """Tell whether `x` is an input for `encoder_layer`."""
    full = x.dtype in (torch.float32, torch.float64)
    mixed = torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and full and not mixed and not torch.compiler.is_compiling()


def encoder_layer(
    layer: EncoderLayer, x: Tensor, memory: Tensor | None, last_tokens_only: int | None
) -> Tensor:
    """Do what `layer(x, memory, last_tokens_only)` does."""
    attention, (norm0, norm1) = layer.self_attn, layer.layer_norms
    return _CPULayer.apply(
        x,
        memory,
        x.shape[1] if last_tokens_only is None else min(last_tokens_only, x.shape[1]),
        attention.heads,
        attention.dropout if layer.training else 0.0,
        (norm0.eps, norm1.eps),
        *(norm0.weight, norm0.bias, attention.in_proj_weight, attention.in_proj_bias),
        *(attention.out_proj.weight, attention.out_proj.bias, norm1.weight, norm1.bias),
        *(layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias),
    )


class _CPULayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        memory: Tensor | None,
        queries: int,
        heads: int,
        dropout: float,
        eps: tuple[float, float],
        *weights: Tensor,
    ) -> Tensor:
        gamma0, beta0, w_in, b_in, w_out, b_out, gamma1, beta1, w1, b1, w2, b2 = weights
        width = x.shape[2]
        normed = _layer_norm(x, [width], gamma0, beta0, eps[0])
        normed_memory = normed
        if memory is not None:
            normed_memory = _layer_norm(memory, [width], gamma0, beta0, eps[0])
        attention = _Attention(
            normed[0][:, -queries:], normed_memory[0], w_in, b_in, heads, dropout
        )
        # Residual and bias first, for the product to be added to.
        y = x[:, -queries:] + b_out
        y.baddbmm_(attention.result_t.transpose(1, 2), w_out.t().expand(len(x), -1, -1))
        normed_y = _layer_norm(y, [width], gamma1, beta1, eps[1])
        hidden = torch.addmm(b1, normed_y[0].view(-1, width), w1.t()).relu_()
        out = torch.addmm(b2, hidden, w2.t()).view_as(y).add_(y)
        if any(ctx.needs_input_grad):
            ctx.kept = attention, normed, normed_memory, y, normed_y, hidden
            ctx.save_for_backward(x, memory, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, memory, *weights = ctx.saved_tensors
        gamma0, beta0, _, _, w_out, _, gamma1, beta1, w1, _, w2, _ = weights
        attention, normed, normed_memory, y, normed_y, hidden = ctx.kept
        width, queries = x.shape[2], y.shape[1]
        every = [True, True, True]

        grad_rows = grad.reshape(-1, width)
        grad_w2, grad_b2 = grad_rows.t() @ hidden, grad_rows.sum(0)
        grad_hidden = torch.ops.aten.threshold_backward(grad_rows @ w2, hidden, 0)
        grad_w1 = grad_hidden.t() @ normed_y[0].view(-1, width)
        grad_b1 = grad_hidden.sum(0)
        grad_y, grad_gamma1, grad_beta1 = _layer_norm_backward(
            (grad_hidden @ w1).view_as(y), y, [width], *normed_y[1:], gamma1, beta1, every
        )
        grad_y += grad

        grad_b_out = grad_y.sum((0, 1))
        grad_w_out = torch.bmm(grad_y.transpose(1, 2), attention.result_t.transpose(1, 2)).sum(0)
        grad_result_t = torch.bmm(w_out.t().expand(len(x), -1, -1), grad_y.transpose(1, 2))
        grad_queries, grad_attended, grad_w_in, grad_b_in = attention.backward(grad_result_t)

        def through_norm(grad: Tensor, x: Tensor, normed: tuple[Tensor, ...]) -> list[Tensor]:
            return _layer_norm_backward(grad, x, [width], *normed[1:], gamma0, beta0, every)

        grad_memory = None
        if memory is None:
            grad_attended[:, -queries:] += grad_queries
            grad_x, grad_gamma0, grad_beta0 = through_norm(grad_attended, x, normed)
        else:
            if queries < x.shape[1]:
                whole = torch.zeros_like(x)
                whole[:, -queries:] = grad_queries
                grad_queries = whole
            grad_x, grad_gamma0, grad_beta0 = through_norm(grad_queries, x, normed)
            grad_memory, more_gamma0, more_beta0 = through_norm(
                grad_attended, memory, normed_memory
            )
            grad_gamma0 += more_gamma0
            grad_beta0 += more_beta0
        grad_x[:, -queries:] += grad_y
        return (
            *(grad_x, grad_memory, None, None, None, None),
            *(grad_gamma0, grad_beta0, grad_w_in, grad_b_in, grad_w_out, grad_b_out),
            *(grad_gamma1, grad_beta1, grad_w1, grad_b1, grad_w2, grad_b2),
        )


class _Attention:
    """Multi-head attention up to its output projection; computed when made."""

    def __init__(
        self, x: Tensor, attended: Tensor, w_in: Tensor, b_in: Tensor, heads: int, dropout: float
    ) -> None:
        batch, queries, width = x.shape
        head = width // heads
        self.x, self.attended, self.heads, self.dropout = x, attended, heads, dropout
        self.scale = head**-0.5
        self.w_q = w_in[:width] * self.scale
        # By head: D keys, D values, and a one to sum the exponentials with.
        self.w_kv = _by_head(w_in[width:], heads)
        w_kv1 = torch.cat([self.w_kv, self.w_kv.new_zeros(heads, 1, width)], dim=1)
        b_kv1 = torch.cat([_by_head(b_in[width:], heads), b_in.new_ones(heads, 1)], dim=1)
        q_t = _project(x, self.w_q, b_in[:width] * self.scale)
        kv_t = _project(attended, w_kv1.view(-1, width), b_kv1.view(-1))
        self.q_t = q_t.view(batch * heads, head, queries)
        kv_t = kv_t.view(batch * heads, 2 * head + 1, -1)
        self.k_t, self.v_t = kv_t[:, :head], kv_t[:, head:]
        shape = (len(self.q_t), kv_t.shape[2], queries)
        self.step = min(_CHUNK * heads, shape[0])
        self.memory_shape = (self.step, *shape[1:])
        self.small = bool(_largest(q_t) * _largest(self.k_t) * head < _SAFE_SCORE)
        self.kept = _random_mask(shape, 1 - dropout) if dropout else None

        sums = q_t.new_empty(shape[0], head + 1, queries)
        parts = self._split(self.v_t, sums, self.kept)
        for exponentials, (v_t, its_sums, kept) in zip(self._exponentials(), parts, strict=True):
            torch.bmm(v_t, exponentials, out=its_sums)
            if kept is not None:
                exponentials *= kept.to(exponentials.dtype)
                its_sums[:, :-1] = torch.bmm(v_t[:, :-1], exponentials)
        self.total = sums[:, -1:] * (1 - dropout) if dropout else sums[:, -1:]
        self.result_t = (sums[:, :-1] / self.total).view(batch, width, queries)

    def backward(self, grad_result_t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of `x`, `attended`, `w_in` and `b_in`."""
        batch, width, _ = grad_result_t.shape
        grad_t = grad_result_t.view_as(self.q_t).div_(self.total)
        # Below those of the weighted sums, that of the sum of the exponentials.
        grad_total = (grad_t * self.result_t.view_as(grad_t)).sum(dim=1, keepdim=True)
        grad_total *= self.dropout - 1
        grad_sums = torch.cat([grad_t, grad_total], dim=1)
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (self.q_t, self.k_t, self.k_t))
        v = self.v_t.transpose(1, 2)
        parts = self._split(
            self.q_t, self.k_t, v, grad_t, grad_sums, self.kept, grad_q, grad_k, grad_v
        )
        memory = grad_t.new_empty(self.memory_shape)
        for exponentials, part in zip(self._exponentials(), parts, strict=True):
            q_t, k_t, v, its_grad_t, its_grad_sums, kept, *its_grads = part
            grad_scores = memory[: len(q_t)]
            if kept is None:
                torch.bmm(v, its_grad_sums, out=grad_scores)
                grad_scores *= exponentials
            else:
                kept = kept.to(grad_t.dtype)
                torch.bmm(v[..., :-1], its_grad_t, out=grad_scores)
                grad_scores *= kept
                grad_scores += its_grad_sums[:, -1:]
                grad_scores *= exponentials
                exponentials *= kept
            torch.bmm(k_t, grad_scores, out=its_grads[0])
            torch.bmm(q_t, grad_scores.transpose(1, 2), out=its_grads[1])
            torch.bmm(its_grad_t, exponentials.transpose(1, 2), out=its_grads[2])
        grad_q = grad_q.view(batch, width, -1)
        grad_kv = torch.cat([grad_k, grad_v], dim=1).view(batch, 2 * width, -1)
        grad_w_q = torch.bmm(grad_q, self.x).sum(0).mul_(self.scale)
        grad_w_kv = torch.bmm(grad_kv, self.attended).sum(0)
        grad_b_q, grad_b_kv = grad_q.sum((0, 2)).mul_(self.scale), grad_kv.sum((0, 2))
        return (
            torch.bmm(grad_q.transpose(1, 2), self.w_q.expand(batch, -1, -1)),
            torch.bmm(grad_kv.transpose(1, 2), self.w_kv.view(-1, width).expand(batch, -1, -1)),
            torch.cat([grad_w_q, _by_part(grad_w_kv, self.heads)]),
            torch.cat([grad_b_q, _by_part(grad_b_kv, self.heads)]),
        )

    def _split(self, *tensors: Tensor | None) -> Iterator[tuple[Tensor | None, ...]]:
        """Cut tensors `(BH, ...)` into parts of a few samples."""
        none = itertools.repeat(None)
        return zip(*(none if x is None else x.split(self.step) for x in tensors), strict=False)

    def _exponentials(self) -> Iterator[Tensor]:
        """Yield the exponentials of the scores, part by part, `(n, M, Q)`.

        The caller may change them; the next part uses their memory again.
        """
        memory = self.q_t.new_empty(self.memory_shape)
        for q_t, k in self._split(self.q_t, self.k_t.transpose(1, 2)):
            scores = torch.bmm(k, q_t, out=memory[: len(q_t)])
            # Small scores need no shift: the softmax comes out the same.
            if not self.small:
                scores -= scores.amax(dim=1, keepdim=True)
            yield scores.exp_()


def _by_head(packed: Tensor, heads: int) -> Tensor:
    """Reorder rows from keys, then values, each by head, to `(H, 2D, ...)`."""
    return packed.view(2, heads, -1, *packed.shape[1:]).transpose(0, 1).flatten(1, 2)


def _by_part(by_head: Tensor, heads: int) -> Tensor:
    """Reorder rows from heads to keys, then values, `(2d, ...)`."""
    return by_head.view(heads, 2, -1, *by_head.shape[1:]).transpose(0, 1).flatten(0, 2)


def _project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear layer to `(B, T, d)`; channels by tokens, `(B, out, T)`."""
    weight = weight.expand(len(x), -1, -1)
    return torch.bmm(weight, x.transpose(1, 2)).add_(bias[:, None])


def _largest(x: Tensor) -> Tensor:
    least, most = x.aminmax()
    return torch.maximum(-least, most)


def _random_mask(shape: tuple[int, int, int], probability: float) -> Tensor:
    """True with the given probability, to 1/65536; in a tenth of the time of `bernoulli_`."""
    size = int(np.prod(shape))
    bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
    drawn = bits.numpy().view(np.uint16)[:size]
    return torch.from_numpy(drawn < round(probability * 65536)).view(shape)
