"""NHFNet's text path with an output: the baseline that audio and visual must improve on."""

from __future__ import annotations

from models.nhfnet.config import TextPathConfig
from models.nhfnet.model import NHFNet


class TextOnly(NHFNet):
    """NHFNet with text alone: LSTMs, LayerNorm, self-attention, and the last token."""

    Config = TextPathConfig
    NAME = "text_only"
    PUBLISHED = None
    ATTENTION_MAPS = ()
