"""LMF: low-rank multimodal fusion (Liu et al., ACL 2018), as in MMSA for CMU-MOSEI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.baselines.vectors import VectorFusion, VectorsConfig, channels, prepend_one
from system.config import setting
from system.console import whole_number


@dataclass(frozen=True)
class LMFConfig(VectorsConfig):
    """The defaults are MMSA's on CMU-MOSEI."""

    text_out: int = setting(64, channels, "channels of the text after its LSTM")
    rank: int = setting(4, whole_number(1, 1024), "rank of the factors of the fusion weights")


class LMF(VectorFusion):
    """The outer product of the three vectors times a weight, computed with low-rank factors."""

    Config = LMFConfig

    def __init__(self, config: LMFConfig, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, widths, outputs)
        self.audio_factor, self.visual_factor, self.text_factor = (
            nn.Parameter(torch.empty(config.rank, 1 + size, outputs)) for size in config.vectors
        )
        self.fusion_weights = nn.Parameter(torch.empty(1, config.rank))
        self.fusion_bias = nn.Parameter(torch.zeros(1, outputs))
        factors = (self.audio_factor, self.visual_factor, self.text_factor)
        for weight in (*factors, self.fusion_weights):
            nn.init.xavier_normal_(weight)

    def forward(self, visual: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """Predict `(B, outputs)` from `(B, Tv, width)`, `(B, Ta, width)`, `(B, Tt, width)`."""
        a, v, t = map(prepend_one, self.vectors(visual, audio, text))
        # (rank, B, outputs)
        product = (a @ self.audio_factor) * (v @ self.visual_factor) * (t @ self.text_factor)
        return torch.einsum("r,rbo->bo", self.fusion_weights[0], product) + self.fusion_bias
