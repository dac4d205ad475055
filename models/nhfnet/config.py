"""What NHFNet is built from, besides the widths of its inputs."""

from __future__ import annotations

from dataclasses import dataclass

from system.config import CheckedConfig, setting
from system.console import share_below_one, whole_number


@dataclass(frozen=True)
class NHFNetConfig(CheckedConfig):
    """The defaults are the paper's on CMU-MOSEI; a ValueError tells what cannot be built."""

    width: int = setting(32, whole_number(4, 4096), "channels of every token")
    heads: int = setting(8, whole_number(1, 512), "of every attention")
    layers: int = setting(4, whole_number(1, 64), "of each of the three encoders")
    feedforward: int = setting(128, whole_number(1, 16384), "hidden channels of a layer")
    text_hidden: int = setting(128, whole_number(1, 4096), "channels of the first LSTM")
    aggregation_tokens: int = setting(4, whole_number(1, 1024), "that carry audio into visual")
    cross_modal_dropout: float = setting(0.4, share_below_one, "of cross-modal attention weights")

    def __post_init__(self) -> None:
        """Check each value, and that the heads share the width out evenly."""
        super().__post_init__()
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not divisible by twice {self.heads} heads")
