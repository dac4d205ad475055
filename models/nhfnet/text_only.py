"""NHFNet's text path to an output of its own: what audio and visual have to add to."""

from __future__ import annotations

from dataclasses import dataclass

from models.nhfnet.config import NHFNetConfig
from models.nhfnet.model import NHFNet
from system.config import setting
from system.console import OneOf


@dataclass(frozen=True)
class TextOnlyConfig(NHFNetConfig):
    """NHFNet's settings; those of the parts that are missing do nothing."""

    modalities: str = setting("text", OneOf("text"), "that are looked at")


class TextOnly(NHFNet):
    """NHFNet with text alone: LSTMs, LayerNorm, self-attention, and the last token."""

    Config = TextOnlyConfig
    PUBLISHED = None
