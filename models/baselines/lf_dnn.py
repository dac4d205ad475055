"""LF-DNN: late fusion of one vector per modality, as in MMSA for CMU-MOSEI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.baselines.vectors import FusionLayers, LayersConfig, channels
from system.config import setting


@dataclass(frozen=True)
class LFDNNConfig(LayersConfig):
    """The defaults are MMSA's on CMU-MOSEI."""

    audio_hidden: int = setting(32, channels, "channels of the audio subnet")


class LFDNN(FusionLayers):
    """Each modality becomes one vector; the outputs come from the three, concatenated."""

    Config = LFDNNConfig

    def __init__(self, config: LFDNNConfig, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, widths, outputs, fused=sum(config.vectors))

    def forward(self, visual: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """Predict `(B, outputs)` from `(B, Tv, width)`, `(B, Ta, width)`, `(B, Tt, width)`."""
        return self.after_fusion(torch.cat(self.vectors(visual, audio, text), dim=1))
