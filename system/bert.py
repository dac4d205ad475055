"""BERT (Devlin et al., NAACL 2019): embeddings and layers, without pooler and heads.

Data preparation uses it, and a model can train it as its text encoder. Parameters have the names
of Hugging Face's BertModel, so that those weights load.

Shapes: B batch, T positions, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from system import onednn
from system.argument_types import OneOf, positive_share, share_below_one, whole_number
from system.config import CheckedConfig, setting
from system.tracing import is_tracing

_LARGEST_SIZE = 2**16  # of channels and positions
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
}
_MASKED_SCORE = -10000.0  # added to the scores of masked pieces, as in the released BERT


@dataclass(frozen=True)
class BertConfig(CheckedConfig):
    """The settings of a BERT, with the names of its config.json."""

    vocab_size: int = setting(30522, whole_number(1, 10_000_000))
    hidden_size: int = setting(768, whole_number(1, _LARGEST_SIZE))
    num_hidden_layers: int = setting(12, whole_number(1, 256))
    num_attention_heads: int = setting(12, whole_number(1, _LARGEST_SIZE))
    intermediate_size: int = setting(3072, whole_number(1, _LARGEST_SIZE))
    max_position_embeddings: int = setting(512, whole_number(1, _LARGEST_SIZE))
    type_vocab_size: int = setting(2, whole_number(1, _LARGEST_SIZE))
    hidden_act: str = setting("gelu", OneOf(*_ACTIVATIONS))
    layer_norm_eps: float = setting(1e-12, positive_share)
    hidden_dropout_prob: float = setting(0.1, share_below_one)
    attention_probs_dropout_prob: float = setting(0.1, share_below_one)

    def __post_init__(self) -> None:
        """Check each value, and that the heads divide the width."""
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by {self.num_attention_heads} "
                "heads"
            )


class Bert(nn.Module):
    """Word pieces to the last hidden layer."""

    checkpoints = False  # recompute activations: less training memory, for a third more time

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])
        self.encoder = nn.ModuleDict({"layer": layers})

    @property
    def parts(self) -> list[nn.Module]:
        """The embeddings, then each layer."""
        return [self.embeddings, *self.encoder["layer"].children()]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode `(B, T)` input ids; `mask` `(B, T)` is 1 at pieces and 0 at padding.

        Returns `(B, T, hidden_size)`, padding included.
        """
        embeddings, *layers = self.parts
        hidden: Tensor = embeddings(ids)
        score_mask = ((1.0 - mask) * _MASKED_SCORE)[:, None, None]  # (B, 1, 1, T)
        for number, layer in enumerate(layers):
            is_first = number == 0
            is_trained = any(weight.requires_grad for weight in layer.parameters())
            if self.checkpoints and torch.is_grad_enabled() and is_trained:
                hidden = checkpoint(layer, hidden, score_mask, is_first, use_reentrant=False)
            else:
                hidden = layer(hidden, score_mask, is_first)
        return hidden


class _Linear(nn.Linear):
    """A linear layer, optionally with GELU; float32 inference on a CPU uses oneDNN."""

    def __init__(self, inputs: int, outputs: int, with_gelu: bool = False) -> None:
        super().__init__(inputs, outputs)
        self._with_gelu = with_gelu

    def forward(self, x: Tensor) -> Tensor:
        is_plain = _is_eager_inference() and not torch.is_autocast_enabled("cpu")
        if is_plain and self.weight.dtype == torch.float32 and onednn.multiplies(x):
            return onednn.linear(x, self.weight, self.bias, "gelu" if self._with_gelu else "none")
        result = super().forward(x)
        return F.gelu(result) if self._with_gelu else result


def _is_eager_inference() -> bool:
    """Return whether no gradients are computed, and nothing is traced or compiled.

    torch.compile supports neither oneDNN's operator nor the check whether it is available.
    """
    return not (torch.compiler.is_compiling() or is_tracing() or torch.is_grad_enabled())


class _Embeddings(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = _embedding(config.vocab_size, width, padding_idx=0)
        self.position_embeddings = _embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = _embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        summed = self.word_embeddings(ids) + self.position_embeddings(positions)
        summed = summed + self.token_type_embeddings.weight[0]
        embedded: Tensor = self.dropout(self.LayerNorm(summed))
        return embedded


def _embedding(count: int, width: int, padding_idx: int | None = None) -> nn.Embedding:
    """Return an embedding without initial values: drawing them on `meta` imports torch._dynamo."""
    return nn.Embedding(count, width, padding_idx, _weight=torch.empty(count, width))


class _Layer(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        is_gelu = config.hidden_act == "gelu"
        dense = _Linear(config.hidden_size, config.intermediate_size, with_gelu=is_gelu)
        self.intermediate = nn.ModuleDict({"dense": dense})
        self.output = _AddAndNorm(config.intermediate_size, config)
        self._activation = None if is_gelu else _ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor, mask: Tensor, is_first: bool = False) -> Tensor:
        # Later layers amplify the rounding of the first attention, in some sentences to 1e-4.
        is_float32 = hidden.dtype == torch.float32
        is_float32 = is_float32 and not torch.is_autocast_enabled(hidden.device.type)
        if is_first and is_float32 and not (self.training or is_tracing()):
            hidden = _call_in_double(self.attention, hidden, mask)
        else:
            hidden = self.attention(hidden, mask)
        inner = self.intermediate["dense"](hidden)
        inner = inner if self._activation is None else self._activation(inner)
        encoded: Tensor = self.output(inner, hidden)
        return encoded


def _call_in_double(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Call a float32 module in float64; the result is float32."""
    weights = {name: weight.double() for name, weight in module.named_parameters()}
    doubled = functional_call(module, weights, tuple(x.double() for x in inputs))
    result: Tensor = doubled.to(inputs[0].dtype)
    return result


class _Attention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _AddAndNorm(config.hidden_size, config)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        attended: Tensor = self.output(self.self(hidden, mask), hidden)
        return attended


class _SelfAttention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.query, self.key, self.value = (_Linear(width, width) for _ in range(3))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        projections = self.query(hidden), *self._keys_and_values(hidden, mask)
        query, key, value = (
            projection.unflatten(-1, (self.heads, -1)).transpose(1, 2) for projection in projections
        )
        dropout = self.dropout if self.training else 0.0
        mask = mask.to(query.dtype)
        attended = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        return attended.transpose(1, 2).flatten(2)

    def _keys_and_values(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Project `hidden`; in inference on a CPU, padding gets zeros: it is not attended to."""
        if hidden.device.type != "cpu" or not _is_eager_inference():
            return self.key(hidden), self.value(hidden)
        is_seen = mask.flatten(1) == 0
        is_seen |= ~is_seen.any(1, keepdim=True)  # a text without pieces attends to its padding
        if is_seen.all():
            return self.key(hidden), self.value(hidden)
        key, value = self.key(hidden[is_seen]), self.value(hidden[is_seen])
        padded = key.new_zeros(2, *hidden.shape)
        padded[0, is_seen], padded[1, is_seen] = key, value
        return padded[0], padded[1]


class _AddAndNorm(nn.Module):
    """A linear layer; its output is added to the residual and normalised."""

    def __init__(self, inputs: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = _Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        normalised: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + residual)
        return normalised


def means_of_words(hidden: Tensor, word_numbers: Tensor, words: int) -> Tensor:
    """Return the mean vector of each word's pieces, `(B, words, d)`; zeros for a word without any.

    `hidden` `(B, T, d)` are the pieces' vectors. `word_numbers` `(B, T)` has each piece's word,
    from 1 to `words`; 0 for a piece of no word.
    """
    numbers = torch.arange(1, words + 1, device=hidden.device)
    belongs = (word_numbers[:, None] == numbers[:, None]).to(hidden.dtype)  # (B, words, T)
    return belongs @ hidden / belongs.sum(dim=2, keepdim=True).clamp(min=1)
