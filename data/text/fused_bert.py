"""The same BERT with fewer, larger steps, for evaluation."""

from __future__ import annotations

import torch
from pytorch_pretrained_bert import BertModel
from pytorch_pretrained_bert.modeling import ACT2FN, BertLayerNorm, BertSelfAttention
from torch import Tensor, nn
from torch.nn import functional as F

from system import onednn


def fuse(model: BertModel, precision: torch.dtype = torch.float32) -> BertModel:
    """Replace the encoder's element-by-element steps with PyTorch's fused ones, in place.

    In float32 the numbers stay the same to rounding. The first attention then runs in
    float64: all later layers amplify its rounding, in some sentences from 1e-6 to more than
    1e-4 at the output, and it is a small share of the work.
    """
    for layer in model.encoder.layer:
        layer.attention.self = _FusedSelfAttention(layer.attention.self)
        layer.attention.output.dense = FastLinear(layer.attention.output.dense)
        layer.attention.output.LayerNorm = _fused_norm(layer.attention.output.LayerNorm)
        is_gelu = layer.intermediate.intermediate_act_fn is ACT2FN["gelu"]
        if is_gelu:
            layer.intermediate.intermediate_act_fn = nn.Identity()
        layer.intermediate.dense = FastLinear(layer.intermediate.dense, with_gelu=is_gelu)
        layer.output.dense = FastLinear(layer.output.dense)
        layer.output.LayerNorm = _fused_norm(layer.output.LayerNorm)
    model.embeddings.LayerNorm = _fused_norm(model.embeddings.LayerNorm)
    if precision != torch.float32:
        return model.to(precision)
    first = model.encoder.layer[0]
    first.attention = _InDouble(first.attention)
    return model


def _fused_norm(norm: BertLayerNorm) -> nn.LayerNorm:
    fused = nn.LayerNorm(len(norm.weight), eps=norm.variance_epsilon)
    fused.weight, fused.bias = norm.weight, norm.bias
    return fused


class FastLinear(nn.Module):
    """A linear layer, and perhaps the GELU behind it; on a CPU, float32 goes through oneDNN.

    PyTorch's own way is MKL, which multiplies half as fast on AMD's processors.
    """

    def __init__(self, linear: nn.Linear, with_gelu: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._with_gelu = with_gelu

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d)` to `(..., e)`."""
        if onednn.multiplies(x):
            then = "gelu" if self._with_gelu else "none"
            return onednn.linear(x, self.weight, self.bias, then)
        result = F.linear(x, self.weight, self.bias)
        return F.gelu(result) if self._with_gelu else result


class _InDouble(nn.Module):
    """A module of float32 inputs and outputs that computes in float64."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.double()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the module's result, back in the first input's type."""
        result: Tensor = self.module(*(x.double() for x in inputs)).to(inputs[0].dtype)
        return result


class _FusedSelfAttention(nn.Module):
    """BERT's self-attention through `scaled_dot_product_attention`."""

    def __init__(self, attention: BertSelfAttention) -> None:
        super().__init__()
        self._heads = attention.num_attention_heads
        self._query, self._key, self._value = map(
            FastLinear, (attention.query, attention.key, attention.value)
        )

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Attend within `hidden` `(B, T, d)`; `mask` `(B, 1, 1, T)` is added to the scores."""
        query, key, value = (
            projected.unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for projected in (self._query(hidden), *self._keys_and_values(hidden, mask))
        )
        attended = F.scaled_dot_product_attention(query, key, value, mask)
        return attended.transpose(1, 2).flatten(2)

    def _keys_and_values(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Project `hidden`; on a CPU zeros stand where there is padding, which has no weight."""
        is_seen = mask.flatten(1) == 0
        is_seen |= ~is_seen.any(1, keepdim=True)  # without a word, padding is all there is
        if hidden.device.type != "cpu" or is_seen.all():
            return self._key(hidden), self._value(hidden)
        key, value = hidden.new_zeros(2, *hidden.shape)
        seen = hidden[is_seen]
        key[is_seen], value[is_seen] = self._key(seen), self._value(seen)
        return key, value
