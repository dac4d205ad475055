"""The settings of NHFNet; the widths of its inputs come from the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from system.argument_types import OneOf, share_below_one, truth_value, whole_number
from system.config import CheckedConfig, setting

MODALITIES = ("text", "audio", "visual")


def modality_names(text: str) -> str:
    """Check a value: names of `MODALITIES`, each at most once, separated by commas."""
    names = text.split(",")
    if not set(names) <= set(MODALITIES) or len(set(names)) < len(names):
        raise ValueError(f"expected some of {','.join(MODALITIES)}, got {text!r}")
    return text


@dataclass(frozen=True)
class TextPathConfig(CheckedConfig):
    """The settings of the text path, with the paper's values; NHFNet adds more."""

    width: int = setting(32, whole_number(4, 4096), "channels of every token")
    heads: int = setting(8, whole_number(1, 512), "heads of every attention")
    layers: int = setting(4, whole_number(1, 64), "layers of each encoder")
    feedforward: int = setting(128, whole_number(1, 16384), "hidden channels of a layer")
    text_hidden: int = setting(128, whole_number(1, 4096), "channels of the first LSTM")
    # Constants here: the values of NHFNet's settings for the text path alone.
    modalities, wiring = "text", "released"
    aggregation_tokens, token_init, fusion_passes = 0, "zeros", 0
    cross_modal, cross_modal_dropout = False, 0.0

    def __post_init__(self) -> None:
        """Check each value, and that twice the number of heads divides the width."""
        super().__post_init__()
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not divisible by twice {self.heads} heads")

    def uses(self, modality: str) -> bool:
        """Return whether a modality is used."""
        return modality in self.modalities.split(",")

    @property
    def fuses(self) -> bool:
        """Whether there are fused tokens, of audio, of visual, or of both."""
        return self.uses("audio") or self.uses("visual")

    @property
    def aggregates(self) -> bool:
        """Whether tokens carry audio into visual."""
        return self.uses("audio") and self.uses("visual") and self.aggregation_tokens > 0

    @property
    def crosses(self) -> bool:
        """Whether text and the fused tokens attend to each other."""
        return self.uses("text") and self.fuses and self.cross_modal

    @property
    def left_out(self) -> list[str]:
        """The parts of the whole model that are missing."""
        is_built = {
            **{modality: self.uses(modality) for modality in MODALITIES},
            "aggregation tokens": self.aggregates,
            "cross-modal attention": self.crosses,
        }
        return [part for part in is_built if not is_built[part]]


@dataclass(frozen=True)
class NHFNetConfig(TextPathConfig):
    """The defaults are the paper's on CMU-MOSEI; raises ValueError for impossible values."""

    aggregation_tokens: int = setting(
        4, whole_number(0, 1024), "tokens from audio to visual; 0: all audio tokens"
    )
    token_init: str = setting("zeros", OneOf("zeros", "learned"), "initial aggregation tokens")
    fusion_passes: int = setting(2, whole_number(1, 64), "passes of the encoder over fused tokens")
    cross_modal: bool = setting(True, truth_value, "text and the fused tokens attend to each other")
    cross_modal_dropout: float = setting(0.4, share_below_one, "dropout of cross-modal attention")
    modalities: str = setting(",".join(MODALITIES), modality_names, "modalities to use")
    wiring: str = setting("released", OneOf("released", "figure"), "as in the code or figure")

    @property
    def effective(self) -> NHFNetConfig:
        """The same for all configurations of one model: settings of missing parts do not count."""
        return replace(
            self,
            text_hidden=self.text_hidden if self.uses("text") else 1,
            modalities=",".join(filter(self.uses, MODALITIES)),
            aggregation_tokens=self.aggregation_tokens if self.aggregates else 0,
            token_init=self.token_init if self.aggregates else "zeros",
            fusion_passes=self.fusion_passes if self.fuses else 1,
            cross_modal=self.crosses,
            cross_modal_dropout=self.cross_modal_dropout if self.crosses else 0.0,
            wiring=self.wiring if self.fuses else "released",  # of text alone, both are the same
        )
