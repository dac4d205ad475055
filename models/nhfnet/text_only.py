"""NHFNet's text path to an output of its own: what audio and visual have to add to."""

from __future__ import annotations

from models.nhfnet.config import TextPathConfig
from models.nhfnet.model import NHFNet


class TextOnly(NHFNet):
    """NHFNet with text alone: LSTMs, LayerNorm, self-attention, and the last token."""

    Config = TextPathConfig
    NAME = "text_only"
    PUBLISHED = None
    ATTENTION_MAPS = ()
