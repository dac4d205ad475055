"""The pre-norm transformer encoder that NHFNet uses three times, and MulT nine.

Shapes: B batch, T tokens, M memory tokens, d width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.dropout import drop, layer_key
from models.layers.positions import embed


@dataclass(frozen=True)
class Extras:
    """Additions in MulT's encoders: a mask, and dropouts in training."""

    is_masked: bool = False  # query i attends to key j only where j - i <= |M - T|
    embedding_dropout: float = 0.0  # of tokens, of memory as keys, and of memory as values
    hidden_dropout: float = 0.0  # after the relu
    residual_dropout: float = 0.0  # before each residual sum

    def mask(self, x: Tensor, memory: Tensor | None) -> Tensor | None:
        """Return a mask `(T, M)`, true where a query must not attend; None without one."""
        if not self.is_masked:
            return None
        queries, keys = x.shape[1], (x if memory is None else memory).shape[1]
        all_pairs = torch.ones(queries, keys, dtype=torch.bool, device=x.device)
        return all_pairs.triu(1 + abs(keys - queries))


_NO_EXTRAS = Extras()


class MultiHeadAttention(nn.Module):
    """Multi-head attention with one packed input projection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout  # of the attention weights
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # rows q, k, v
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.softmax = nn.Softmax(dim=-1)  # a module, so that hooks see the weights
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        dropout_keys: Tensor | None = None,
        values: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Let `x` `(B, T, d)` attend to `memory` `(B, M, d)`, or to itself without one.

        With `dropout_keys` `(B,)`, attention weights are dropped. `values` `(B, M, d)` replace the
        memory as the source of values, not of keys. Where `mask` `(T, M)` is true, a query does not
        attend to a key.
        """
        if memory is None:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            width = x.shape[-1]
            weight_q, weight_kv = torch.split(self.in_proj_weight, [width, 2 * width])
            bias_q, bias_kv = torch.split(self.in_proj_bias, [width, 2 * width])
            q = F.linear(x, weight_q, bias_q)
            k, v = F.linear(memory, weight_kv, bias_kv).chunk(2, dim=-1)
            if values is not None:
                v = F.linear(values, weight_kv[width:], bias_kv[width:])
        q, k, v = (self._split_heads(part) for part in (q, k, v))
        # Not scaled_dot_product_attention: at a head width of 4, its fused kernels are slower.
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(mask, -torch.inf)
        weights = self.softmax(scores)
        if dropout_keys is not None:
            weights = drop(weights, self.dropout, dropout_keys)
        out: Tensor = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return out

    def _split_heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, d / H)


class EncoderLayer(nn.Module):
    """Attention and a feed-forward block, each behind its own LayerNorm and residual."""

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float, extras: Extras = _NO_EXTRAS
    ) -> None:
        super().__init__()
        self.extras = extras
        self.self_attn = MultiHeadAttention(width, heads, dropout)
        self.fc1 = nn.Linear(width, feedforward)
        self.fc2 = nn.Linear(feedforward, width)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        last_tokens_only: int | None = None,
        dropout_keys: Tensor | None = None,
        values: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Update `x` `(B, T, d)`; the embedded `memory` `(B, M, d)` shares its LayerNorm.

        With `last_tokens_only`, only that many last tokens are computed, which attend to all.
        `values` and `mask` are those of MultiHeadAttention.
        """
        attention_norm, feedforward_norm = self.layer_norms
        queries = attention_norm(x)
        attended, values = (None if v is None else attention_norm(v) for v in (memory, values))
        if last_tokens_only is not None:
            attended = queries if attended is None else attended
            queries, x = queries[:, -last_tokens_only:], x[:, -last_tokens_only:]
            mask = None if mask is None else mask[-last_tokens_only:]
        context = self.self_attn(queries, attended, dropout_keys, values, mask)
        x = x + self._drop(context, self.extras.residual_dropout)
        hidden = self._drop(F.relu(self.fc1(feedforward_norm(x))), self.extras.hidden_dropout)
        return x + self._drop(self.fc2(hidden), self.extras.residual_dropout)

    def _drop(self, x: Tensor, share: float) -> Tensor:
        return F.dropout(x, share, self.training)


class Encoder(nn.Module):
    """`E(x)` and `E(x, memory)`: embed, pre-norm layers, a last LayerNorm.

    Every call embeds its input, also another encoder's output. All layers share the embedded
    memory.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        feedforward: int,
        attention_dropout: float,
        extras: Extras = _NO_EXTRAS,
    ) -> None:
        super().__init__()
        self.extras = extras
        stack = nn.ModuleList(
            EncoderLayer(width, heads, feedforward, attention_dropout, extras)
            for _ in range(layers)
        )
        self.layers = cast("Sequence[EncoderLayer]", stack)
        self.layer_norm = nn.LayerNorm(width)

    @property
    def attention_dropout(self) -> float:
        """The share of attention weights that training drops, in every layer."""
        return self.layers[0].self_attn.dropout

    def active_keys(self, x: Tensor, dropout_keys: Tensor | None) -> Tensor | None:
        """Return the keys `(B,)` for dropout: `dropout_keys`, or else random ones.

        None where nothing is dropped: in evaluation, and without dropout.
        """
        if not (self.training and self.attention_dropout):
            return None
        if dropout_keys is None:
            return torch.randint(2**32, x.shape[:1], device=x.device)
        return dropout_keys

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        last_tokens_only: int | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:
        """Encode `x` `(B, T, d)`, attending to `memory` `(B, M, d)` when there is one.

        With `last_tokens_only`, only that many last tokens are returned, and the last layer skips
        the others. `dropout_keys` `(B,)` int64 below 2**32 determine what training drops; without
        them, PyTorch's generator does.
        """
        return self.formula(x, memory, last_tokens_only, self.active_keys(x, dropout_keys))

    def formula(
        self,
        x: Tensor,
        memory: Tensor | None,
        last_tokens_only: int | None,
        dropout_keys: Tensor | None,
    ) -> Tensor:
        """Encode as `forward` does; with dropout only if there are keys."""
        mask, values = self.extras.mask(x, memory), None
        x = self._embed(x)
        if memory is not None:
            if self.training and self.extras.embedding_dropout:
                values = self._embed(memory)
            memory = self._embed(memory)
        for n, layer in enumerate(self.layers):
            is_last = n == len(self.layers) - 1
            keys = None if dropout_keys is None else layer_key(dropout_keys, n)
            x = layer(x, memory, last_tokens_only if is_last else None, keys, values, mask)
        x = self.layer_norm(x)
        return x

    def _embed(self, x: Tensor) -> Tensor:
        return F.dropout(embed(x), self.extras.embedding_dropout, self.training)
