"""NHFNet: the non-homogeneous fusion network (Fu et al., ICME 2022).

Shapes: B batch; Tv, Ta, Tt tokens of visual, audio, text; d the common width (32).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint import read_checkpoint, restore_model
from models.layers.dropout import scramble
from models.layers.encoder import Encoder
from models.nhfnet.config import NHFNetConfig
from models.nhfnet.released_format import RELEASED


class NHFNet(nn.Module):
    """Audio and visual fused through attention-aggregation tokens, then text reinforced."""

    Config = NHFNetConfig
    PUBLISHED = RELEASED
    takes_dropout_keys = True

    def __init__(self, config: NHFNetConfig, widths: Mapping[str, int], outputs: int = 1) -> None:
        super().__init__()
        self.config, self.widths, self.outputs = config, widths, outputs
        width = config.width
        self.audio_linear = nn.Linear(widths["audio"], width)
        self.visual_linear = nn.Linear(widths["visual"], width)
        self.audio_visual_encoder = self._encoder(attention_dropout=0.0)
        self.text_lstms = nn.ModuleList(
            [
                nn.LSTM(widths["text"], config.text_hidden, batch_first=True),
                nn.LSTM(config.text_hidden, width, batch_first=True),
            ]
        )
        self.text_norm = nn.LayerNorm(width)
        self.cross_modal_encoder = self._encoder(config.cross_modal_dropout)
        self.self_attention_encoder = self._encoder(attention_dropout=0.0)
        self.output = nn.Linear(width, outputs)

    def _encoder(self, attention_dropout: float) -> Encoder:
        config = self.config
        return Encoder(
            config.width, config.heads, config.layers, config.feedforward, attention_dropout
        )

    def forward(
        self, visual: Tensor, audio: Tensor, text: Tensor, dropout_keys: Tensor | None = None
    ) -> Tensor:
        """Predict `(B, outputs)`: the sentiment, not clipped to the labels' [-3, 3].

        `visual` is `(B, Tv, 35)`, `audio` `(B, Ta, 74)`, `text` `(B, Tt, 768)` (or as wide as
        `widths` says), finite. The lengths may differ. In training, a segment's key in
        `dropout_keys` `(B,)`, int64 below 2**32, decides what dropout drops; PyTorch's generator
        without them.
        """
        keys, other_keys = dropout_keys, None if dropout_keys is None else scramble(dropout_keys)
        f = self.fuse_audio_visual(visual, audio)
        h = self.encode_text(text)
        f_cross = self.cross_modal_encoder(f, memory=h, dropout_keys=keys)
        h_cross = self.cross_modal_encoder(h, memory=f, dropout_keys=other_keys)
        f_self = self.self_attention_encoder(f_cross, last_tokens_only=1)
        h_self = self.self_attention_encoder(h_cross, last_tokens_only=1)
        return self.output(h[:, -1] + f[:, -1] + h_self[:, -1] + f_self[:, -1])

    def fuse_audio_visual(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Carry audio into visual through the aggregation tokens, `(B, 4 + Tv, d)`."""
        encode = self.audio_visual_encoder
        a, v = self.audio_linear(audio), self.visual_linear(visual)
        if a.shape == v.shape:  # one pass takes less time than two
            both, batch = encode(torch.cat([a, v])), a.shape[0]
            a, v = both[:batch], both[batch:]
        else:
            a, v = encode(a), encode(v)
        tokens = self.config.aggregation_tokens
        z = a.new_zeros(a.shape[0], tokens, self.config.width)
        z = encode(torch.cat([a, z], dim=1), last_tokens_only=tokens)
        w = encode(torch.cat([z, v], dim=1))
        return encode(w)

    def encode_text(self, text: Tensor) -> Tensor:
        """Two LSTMs with all steps kept, LayerNorm and self-attention, `(B, Tt, d)`."""
        x = text
        # Under autocast cuDNN would run them in float16, too narrow for gradients.
        with torch.autocast("cuda", enabled=False) if text.is_cuda else nullcontext():
            for lstm in self.text_lstms:
                x, _ = lstm(x)
        return self.self_attention_encoder(self.text_norm(x))

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> NHFNet:
        """Build the model a checkpoint holds, in evaluation mode on the CPU.

        `path` is a file written by this program or in the released code's format. Raises
        `InputError` for a file that is no checkpoint, would run code, or does not fit.
        """
        return restore_model(read_checkpoint(Path(path)), cls)
