"""TFN: tensor fusion network (Zadeh et al., EMNLP 2017), as in MMSA for CMU-MOSEI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from models.baselines.vectors import FusionLayers, LayersConfig, channels, prepend_one
from system.config import setting
from system.console import share_below_one


@dataclass(frozen=True)
class TFNConfig(LayersConfig):
    """The defaults are MMSA's on CMU-MOSEI."""

    dropout: float = setting(0.4, share_below_one, "dropout before subnets and after fusion")
    fusion_hidden: int = setting(16, channels, "channels of the two layers after the fusion")


class TFN(FusionLayers):
    """The outer product of the three vectors, each with a 1 in front; outputs in [-3, 3]."""

    Config = TFNConfig

    def __init__(self, config: TFNConfig, widths: Mapping[str, int], outputs: int) -> None:
        fused = prod(1 + size for size in config.vectors)
        super().__init__(config, widths, outputs, fused)

    def forward(self, visual: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """Predict `(B, outputs)` from `(B, Tv, width)`, `(B, Ta, width)`, `(B, Tt, width)`."""
        a, v, t = map(prepend_one, self.vectors(visual, audio, text))
        product = torch.einsum("ba,bv,bt->bavt", a, v, t)
        return 6 * torch.sigmoid(self.after_fusion(product.flatten(1))) - 3
