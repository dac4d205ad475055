"""NHFNet as such models are commonly written, directly from the definition.

Plain eager PyTorch: time is the tensors' first dimension, heads are part of the batch of `bmm`,
texts go through `nn.LSTM`, every pass computes all its tokens and new position tables, and dropout
draws masks. This is the baseline for the program's speed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTH, _HEADS, _LAYERS, _TOKENS = 32, 8, 4, 4


class _Attention(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * _WIDTH, _WIDTH))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * _WIDTH))
        self.out_proj = nn.Linear(_WIDTH, _WIDTH)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Let `query` `(T, B, d)` attend to `key` `(M, B, d)`."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias)
            for x, weight, bias in zip((query, key, key), weights, biases, strict=True)
        )
        q = q * (_WIDTH // _HEADS) ** -0.5
        q, k, v = (self._by_head(x) for x in (q, k, v))
        scores = F.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1)
        scores = F.dropout(scores, self.dropout, self.training)
        out = torch.bmm(scores, v).transpose(0, 1).contiguous().view(query.shape)
        return self.out_proj(out)

    @staticmethod
    def _by_head(x: Tensor) -> Tensor:
        length, batch, _ = x.shape
        return x.contiguous().view(length, batch * _HEADS, _WIDTH // _HEADS).transpose(0, 1)


class _Layer(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.self_attn = _Attention(dropout)
        self.fc1, self.fc2 = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)])

    def forward(self, x: Tensor, memory: Tensor | None) -> Tensor:
        norm = self.layer_norms[0]
        query = norm(x)
        x = x + self.self_attn(query, query if memory is None else norm(memory))
        return x + self.fc2(F.relu(self.fc1(self.layer_norms[1](x))))


class _Encoder(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(dropout) for _ in range(_LAYERS)])
        self.layer_norm = nn.LayerNorm(_WIDTH)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Encode `x` `(T, B, d)`, with `memory` `(M, B, d)`."""
        x = self._embed(x)
        memory = None if memory is None else self._embed(memory)
        for layer in self.layers:
            x = layer(x, memory)
        return self.layer_norm(x)

    @staticmethod
    def _embed(x: Tensor) -> Tensor:
        half = _WIDTH // 2
        rates = torch.exp(torch.arange(half, device=x.device) * -(math.log(10000) / (half - 1)))
        angles = torch.arange(1, len(x) + 1, device=x.device).unsqueeze(1) * rates
        table = torch.cat([angles.sin(), angles.cos()], dim=1).unsqueeze(1)
        return math.sqrt(_WIDTH) * x + table * (x[:, :, :1] != 0)


class EagerNHFNet(nn.Module):
    """NHFNet with the paper's sizes; its parameters have the names of `models.NHFNet`."""

    def __init__(
        self, visual_width: int = 35, audio_width: int = 74, text_width: int = 768
    ) -> None:
        super().__init__()
        self.audio_linear = nn.Linear(audio_width, _WIDTH)
        self.visual_linear = nn.Linear(visual_width, _WIDTH)
        self.audio_visual_encoder = _Encoder()
        self.text_lstms = nn.ModuleList([nn.LSTM(text_width, 128), nn.LSTM(128, _WIDTH)])
        self.text_norm = nn.LayerNorm(_WIDTH)
        self.cross_modal_encoder = _Encoder(dropout=0.4)
        self.self_attention_encoder = _Encoder()
        self.output = nn.Linear(_WIDTH, 1)

    def forward(self, visual: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """Predict `(B, 1)` from `(B, T, width)` of each modality."""
        visual, audio, x = (value.transpose(0, 1) for value in (visual, audio, text))
        fuse, attend = self.audio_visual_encoder, self.self_attention_encoder
        a, v = fuse(self.audio_linear(audio)), fuse(self.visual_linear(visual))
        tokens = fuse(torch.cat([a, a.new_zeros(_TOKENS, *a.shape[1:])]))[-_TOKENS:]
        f = fuse(fuse(torch.cat([tokens, v])))
        for lstm in self.text_lstms:
            x, _ = lstm(x)
        h = attend(self.text_norm(x))
        crossed = [self.cross_modal_encoder(h, f), self.cross_modal_encoder(f, h)]
        return self.output(sum(x[-1] for x in (h, f, *map(attend, crossed))))
