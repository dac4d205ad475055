"""The common part of LF-DNN, LMF and TFN: one vector per modality, as in MMSA.

Shapes: B batch; Tv, Ta, Tt tokens of visual, audio, text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.checkpoint import PublishedFormat
from models.contract import Model
from models.layers.lstm import LSTM
from system.config import CheckedConfig, setting
from system.console import share_below_one, whole_number

channels = whole_number(1, 65536)


@dataclass(frozen=True)
class VectorsConfig(CheckedConfig):
    """Settings of all three models, with MMSA's defaults on CMU-MOSEI."""

    audio_hidden: int = setting(16, channels, "channels of the audio subnet")
    visual_hidden: int = setting(128, channels, "channels of the visual subnet")
    text_hidden: int = setting(128, channels, "channels of the LSTM")
    text_out: int = setting(128, channels, "channels of the text after its LSTM")
    dropout: float = setting(0.2, share_below_one, "dropout before subnets and after fusion")

    @property
    def vectors(self) -> tuple[int, int, int]:
        """The channels of the vectors of audio, visual and text."""
        return self.audio_hidden, self.visual_hidden, self.text_out


class BatchNorm(nn.BatchNorm1d):
    """PyTorch's BatchNorm1d; a training batch of one segment uses the running statistics.

    One segment has no variance, and the last batch of a split may have one only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of `x` `(B, channels)`."""
        if self.training and len(x) == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class Subnet(nn.Module):
    """Normalisation, dropout and three linear layers over one vector per segment."""

    def __init__(self, inputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = BatchNorm(inputs)
        self.drop = nn.Dropout(dropout)
        self.linear_1 = nn.Linear(inputs, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Encode `x` `(B, inputs)` to `(B, hidden)`."""
        x = self.drop(self.norm(x))
        for linear in (self.linear_1, self.linear_2, self.linear_3):
            x = torch.relu(linear(x))
        return x


class TextSubnet(nn.Module):
    """One LSTM, whose last hidden state goes through a linear layer."""

    def __init__(self, inputs: int, hidden: int, out: int) -> None:
        super().__init__()
        self.rnn = LSTM(inputs, hidden, batch_first=True)
        self.linear_1 = nn.Linear(hidden, out)

    def forward(self, text: Tensor) -> Tensor:
        """Encode `text` `(B, Tt, inputs)` to `(B, out)`."""
        _, (last, _) = self.rnn(text)
        encoded: Tensor = self.linear_1(last[0])
        return encoded


class VectorFusion(Model):
    """A model that fuses one vector per modality."""

    PUBLISHED = PublishedFormat(
        prefixes={"video_": "visual_"},
        widths={
            "visual": "visual_subnet.linear_1.weight",
            "audio": "audio_subnet.linear_1.weight",
            "text": "text_subnet.rnn.weight_ih_l0",
        },
        never_used=r"^output_(range|shift)$",  # TFN's constants
    )

    def __init__(self, config: VectorsConfig, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, widths, outputs)
        self.audio_subnet = Subnet(widths["audio"], config.audio_hidden, config.dropout)
        self.visual_subnet = Subnet(widths["visual"], config.visual_hidden, config.dropout)
        self.text_subnet = TextSubnet(widths["text"], config.text_hidden, config.text_out)

    def vectors(self, visual: Tensor, audio: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """Return the vectors a, v, t of `(B, Tv, ...)`, `(B, Ta, ...)`, `(B, Tt, ...)`.

        Audio and visual are averaged over all their rows, padding included.
        """
        a, v = self.audio_subnet(audio.mean(dim=1)), self.visual_subnet(visual.mean(dim=1))
        return a, v, self.text_subnet(text)


@dataclass(frozen=True)
class LayersConfig(VectorsConfig):
    """Settings of a fusion that is followed by linear layers."""

    fusion_hidden: int = setting(128, channels, "channels of the two layers after the fusion")


class FusionLayers(VectorFusion):
    """A fusion into `fused` channels, dropout, two linear layers with relu, and the output."""

    def __init__(
        self, config: LayersConfig, widths: Mapping[str, int], outputs: int, fused: int
    ) -> None:
        super().__init__(config, widths, outputs)
        self.post_fusion_dropout = nn.Dropout(config.dropout)
        self.post_fusion_layer_1 = nn.Linear(fused, config.fusion_hidden)
        self.post_fusion_layer_2 = nn.Linear(config.fusion_hidden, config.fusion_hidden)
        self.post_fusion_layer_3 = nn.Linear(config.fusion_hidden, outputs)

    def after_fusion(self, x: Tensor) -> Tensor:
        """Predict `(B, outputs)` from `(B, fused)`."""
        x = self.post_fusion_dropout(x)
        x = torch.relu(self.post_fusion_layer_1(x))
        x = torch.relu(self.post_fusion_layer_2(x))
        x = self.post_fusion_layer_3(x)
        return x


def prepend_one(x: Tensor) -> Tensor:
    """Return `[1; x]` `(B, 1 + channels)` of `(B, channels)`."""
    return F.pad(x, (1, 0), value=1.0)
