"""MSAF: multimodal split attention fusion (Su, Hu et al., arXiv 2012.07175), for CMU-MOSEI.

Shapes: B batch; T tokens of a modality; K blocks, of `block` channels (16), of all modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.baselines.vectors import BatchNorm, channels
from models.checkpoint import PublishedFormat
from models.contract import Model
from models.layers.lstm import LSTM
from system.config import CheckedConfig, setting
from system.console import share_below_one, whole_number
from system.tracing import is_tracing


@dataclass(frozen=True)
class MSAFConfig(CheckedConfig):
    """The defaults are the authors' on CMU-MOSEI."""

    visual_hidden: int = setting(32, channels, "channels of the visual LSTMs")
    audio_hidden: int = setting(64, channels, "channels of the audio LSTMs")
    text_hidden: int = setting(128, channels, "channels of the text LSTMs")
    block: int = setting(16, channels, "channels that share an attention")
    joint_hidden: int = setting(8, channels, "channels from which the attention is computed")
    segments: int = setting(5, whole_number(1, 1024), "parts of the time, fused separately")
    dropout: float = setting(0.2, share_below_one, "dropout of whole blocks, in training")

    def __post_init__(self) -> None:
        """Check each value, and that `block` divides the channels of every modality."""
        super().__post_init__()
        for name, size in self.hidden.items():
            if size % self.block:
                raise ValueError(f"{name}_hidden {size} is not divisible by block {self.block}")

    @property
    def hidden(self) -> dict[str, int]:
        """The channels of each modality, in the order of the model's inputs."""
        return {"visual": self.visual_hidden, "audio": self.audio_hidden, "text": self.text_hidden}


class SplitAttention(nn.Module):
    """Blocks of channels of all modalities, weighted against each other."""

    def __init__(
        self, channels: Sequence[int], block: int, joint_hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.block, self.dropout = block, dropout
        self.blocks = [size // block for size in channels]  # of each modality
        self.joint_features = nn.Sequential(nn.Linear(block, joint_hidden), BatchNorm(joint_hidden))
        self.dense_group = nn.ModuleList(
            nn.Linear(joint_hidden, block) for _ in range(sum(self.blocks))
        )

    def forward(self, steps: Sequence[Tensor]) -> list[Tensor]:
        """Weight each `(B, T, channels)`; an input without steps adds nothing to the attention."""
        # No size is -1: in an ONNX file, it cannot be inferred for an input without steps.
        blocks = [
            x.reshape(*x.shape[:2], count, self.block)  # (B, T, its blocks, block)
            for x, count in zip(steps, self.blocks, strict=True)
        ]
        masks = [
            F.dropout(x.new_ones(x.shape[0], 1, x.shape[2], 1), self.dropout, self.training)
            for x in blocks
        ]
        blocks = [x * mask for x, mask in zip(blocks, masks, strict=True)]
        joint = sum(x.sum(dim=(1, 2)) / _at_least_one(x.shape[1]) for x in blocks)
        joint = torch.relu(self.joint_features(joint))
        scores = torch.stack([dense(joint) for dense in self.dense_group], dim=1)  # (B, K, block)
        attention = scores.softmax(dim=1)
        shares = torch.split(attention[:, None], self.blocks, dim=2)
        # The masks are applied twice, as by the authors, so that values are scaled up twice.
        inputs = zip(blocks, shares, masks, steps, strict=True)
        return [(x * share * mask).reshape(step.shape) for x, share, mask, step in inputs]


def _at_least_one(steps: Any) -> Any:
    """Return a number of steps, 1 instead of 0; it is a tensor while a model is traced."""
    return steps.clamp(min=1) if is_tracing() else max(1, steps)


class MSAF(Model):
    """LSTMs, split attention in five parts of the sequence, LSTMs, and their last steps."""

    Config = MSAFConfig
    config: MSAFConfig
    PUBLISHED = PublishedFormat(
        prefixes={
            "msaf.0.blocks.": "fusions.",
            "visual_model.": "lstms.visual.",
            "audio_model.": "lstms.audio.",
            "text_model.": "lstms.text.",
            "multimodal_classifier.0.": "output.",
        },
        widths={name: f"lstms.{name}.0.weight_ih_l0" for name in ("visual", "audio", "text")},
    )

    def __init__(self, config: MSAFConfig, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, widths, outputs)
        lstms = {
            name: nn.ModuleList(
                LSTM(inputs, size, batch_first=True) for inputs in (widths[name], size)
            )
            for name, size in config.hidden.items()
        }
        self.lstms = cast("Mapping[str, Sequence[LSTM]]", nn.ModuleDict(lstms))
        self.fusions = nn.ModuleList(
            SplitAttention(
                list(config.hidden.values()), config.block, config.joint_hidden, config.dropout
            )
            for _ in range(config.segments)
        )
        self.output = nn.Linear(sum(config.hidden.values()), outputs)

    def forward(self, visual: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """Predict `(B, outputs)` from `(B, Tv, width)`, `(B, Ta, width)`, `(B, Tt, width)`."""
        inputs = dict(zip(self.config.hidden, (visual, audio, text), strict=True))
        states = [self.lstms[name][0](x)[0] for name, x in inputs.items()]
        parts = zip(*(self._segments(x) for x in states), strict=True)
        fused = [fusion(part) for fusion, part in zip(self.fusions, parts, strict=True)]
        # The parts of each modality, joined to a sequence again.
        sequences = [torch.cat(parts, dim=1) for parts in zip(*fused, strict=True)]
        last_steps = [
            self.lstms[name][1](x)[0][:, -1]
            for name, x in zip(self.config.hidden, sequences, strict=True)
        ]
        prediction: Tensor = self.output(torch.cat(last_steps, dim=1))
        return prediction

    def _segments(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split `(B, T, channels)` into parts of equal length; the last one has the rest too."""
        count, length = self.config.segments, x.shape[1]
        steps = length // count
        return torch.split(x, [steps] * (count - 1) + [length - steps * (count - 1)], dim=1)
