"""LF-DNN: late fusion of one vector a modality, as MMSA has it for CMU-MOSEI.

Shapes: B batch; Tv, Ta, Tt tokens of visual, audio, text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.checkpoint import PublishedFormat
from models.layers.norm import BatchNorm
from system.config import CheckedConfig, setting
from system.console import share_below_one, whole_number

_WIDTH = whole_number(1, 65536)


@dataclass(frozen=True)
class LFDNNConfig(CheckedConfig):
    """The defaults are MMSA's on CMU-MOSEI."""

    audio_hidden: int = setting(32, _WIDTH, "channels of the audio subnet")
    visual_hidden: int = setting(128, _WIDTH, "channels of the visual subnet")
    text_hidden: int = setting(128, _WIDTH, "channels of the LSTM")
    text_out: int = setting(128, _WIDTH, "channels of the text after its LSTM")
    fusion_hidden: int = setting(128, _WIDTH, "channels of the two layers after the fusion")
    dropout: float = setting(0.2, share_below_one, "before the subnets and after the fusion")


class Subnet(nn.Module):
    """Normalisation, dropout and three linear layers over one vector a segment."""

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
        self.rnn = nn.LSTM(inputs, hidden, batch_first=True)
        self.linear_1 = nn.Linear(hidden, out)

    def forward(self, text: Tensor) -> Tensor:
        """Encode `text` `(B, Tt, inputs)` to `(B, out)`."""
        _, (last, _) = self.rnn(text)
        return self.linear_1(last[0])


class LFDNN(nn.Module):
    """Each modality becomes one vector; the three, side by side, give the outputs."""

    Config = LFDNNConfig
    PUBLISHED = PublishedFormat(
        prefixes={"video_subnet.": "visual_subnet."},
        widths={
            "visual": "visual_subnet.linear_1.weight",
            "audio": "audio_subnet.linear_1.weight",
            "text": "text_subnet.rnn.weight_ih_l0",
        },
    )

    def __init__(self, config: LFDNNConfig, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        self.config, self.widths, self.outputs = config, widths, outputs
        self.audio_subnet = Subnet(widths["audio"], config.audio_hidden, config.dropout)
        self.visual_subnet = Subnet(widths["visual"], config.visual_hidden, config.dropout)
        self.text_subnet = TextSubnet(widths["text"], config.text_hidden, config.text_out)
        fused = config.audio_hidden + config.visual_hidden + config.text_out
        hidden = config.fusion_hidden
        self.post_fusion_dropout = nn.Dropout(config.dropout)
        self.post_fusion_layer_1 = nn.Linear(fused, hidden)
        self.post_fusion_layer_2 = nn.Linear(hidden, hidden)
        self.post_fusion_layer_3 = nn.Linear(hidden, outputs)

    def forward(self, visual: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """Predict `(B, outputs)` from `(B, Tv, width)`, `(B, Ta, width)`, `(B, Tt, width)`.

        Audio and visual are averaged over all their rows, padding included.
        """
        vectors = (
            self.audio_subnet(audio.mean(dim=1)),
            self.visual_subnet(visual.mean(dim=1)),
            self.text_subnet(text),
        )
        x = self.post_fusion_dropout(torch.cat(vectors, dim=1))
        x = torch.relu(self.post_fusion_layer_1(x))
        x = torch.relu(self.post_fusion_layer_2(x))
        return self.post_fusion_layer_3(x)
