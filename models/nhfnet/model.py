"""NHFNet: the non-homogeneous fusion network (Fu et al., ICME 2022).

Shapes: B batch; Tv, Ta, Tt tokens of visual, audio, text; F fused tokens; d the common width (32).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from torch import Tensor, nn

from models.checkpoint import PublishedFormat, read_checkpoint, restore_model, write_checkpoint
from models.contract import Model
from models.layers.dropout import scramble
from models.layers.encoder import Encoder
from models.layers.lstm import LSTM
from models.layers.recording import AttentionMap, recorded_attention
from models.nhfnet.attention import ATTENTION_MAPS, maps_of_calls
from models.nhfnet.config import NHFNetConfig, TextPathConfig
from models.nhfnet.released_format import RELEASED

_HUB_FILE = "model.safetensors"


class NHFNet(Model, PyTorchModelHubMixin):
    """Audio and visual fused through attention-aggregation tokens, then text reinforced.

    Parts that the configuration leaves out are not built; the sum before the output then lacks
    their terms.
    """

    Config: ClassVar[type[TextPathConfig]] = NHFNetConfig
    config: TextPathConfig
    NAME = "nhfnet"  # in checkpoints
    PUBLISHED: ClassVar[PublishedFormat | None] = RELEASED
    ATTENTION_MAPS: ClassVar[tuple[str, ...]] = ATTENTION_MAPS
    takes_dropout_keys = True

    def __init__(self, config: TextPathConfig, widths: Mapping[str, int], outputs: int = 1) -> None:
        super().__init__(config, widths, outputs)
        width = config.width
        if config.uses("audio"):
            self.audio_linear = nn.Linear(widths["audio"], width)
        if config.uses("visual"):
            self.visual_linear = nn.Linear(widths["visual"], width)
        if config.fuses:
            self.audio_visual_encoder = self._encoder(attention_dropout=0.0)
        if config.aggregates and config.token_init == "learned":
            # Not zeros: equal tokens would stay equal until they attend to visual.
            self.tokens = nn.Parameter(0.02 * torch.randn(config.aggregation_tokens, width))
        if config.uses("text"):
            self.text_lstms = nn.ModuleList(
                [
                    LSTM(widths["text"], config.text_hidden, batch_first=True),
                    LSTM(config.text_hidden, width, batch_first=True),
                ]
            )
            self.text_norm = nn.LayerNorm(width)
        if config.crosses:
            self.cross_modal_encoder = self._encoder(config.cross_modal_dropout)
        if config.uses("text") or config.wiring == "figure":
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
        `dropout_keys` `(B,)`, int64 below 2**32, determines what dropout drops; without keys,
        PyTorch's generator does.
        """
        f = self.fuse_audio_visual(visual, audio) if self.config.fuses else None
        h = self.encode_text(text) if self.config.uses("text") else None
        crossed = []
        if f is not None and h is not None and self.config.crosses:
            crossed = self._cross(f, h, dropout_keys)
        states = [self._last_state(x) for x in (h, f) if x is not None]
        prediction: Tensor = self.output(sum(states + crossed))
        return prediction

    def _cross(self, f: Tensor, h: Tensor, dropout_keys: Tensor | None) -> list[Tensor]:
        """Let fused tokens and text attend to each other; return both last states `(B, d)`."""
        other_keys = None if dropout_keys is None else scramble(dropout_keys)
        f_cross = self.cross_modal_encoder(f, memory=h, dropout_keys=dropout_keys)
        h_cross = self.cross_modal_encoder(h, memory=f, dropout_keys=other_keys)
        f_self = self.self_attention_encoder(f_cross, last_tokens_only=1)
        h_self = self.self_attention_encoder(h_cross, last_tokens_only=1)
        return [h_self[:, -1], f_self[:, -1]]

    def with_attention(
        self, visual: Tensor, audio: Tensor, text: Tensor
    ) -> tuple[Tensor, dict[str, AttentionMap]]:
        """Return the prediction of `forward`, and the attention maps by name.

        The names are those of `ATTENTION_MAPS` whose parts the configuration has.
        """
        with recorded_attention(self) as calls:
            prediction = self(visual, audio, text)
        return prediction, maps_of_calls(self.config, visual, audio, text, calls)

    def fuse_audio_visual(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Carry audio into visual through the aggregation tokens, `(B, F, d)`.

        F is 4 + Tv. Without tokens, audio and visual are concatenated, or only one of them is
        used.
        """
        config, encode = self.config, self.audio_visual_encoder
        states = [self.audio_linear(audio)] if config.uses("audio") else []
        states += [self.visual_linear(visual)] if config.uses("visual") else []
        if len(states) == 2 and states[0].shape == states[1].shape:  # one pass is faster
            both, batch = encode(torch.cat(states)), audio.shape[0]
            states = [both[:batch], both[batch:]]
        else:
            states = [encode(x) for x in states]
        if config.aggregates:
            a, tokens = states[0], config.aggregation_tokens
            states[0] = encode(torch.cat([a, self._tokens(a)], dim=1), last_tokens_only=tokens)
        f = torch.cat(states, dim=1)
        for _ in range(config.fusion_passes):
            f = encode(f)
        return f

    def _tokens(self, a: Tensor) -> Tensor:
        """Return the initial aggregation tokens, `(B, 4, d)`."""
        if self.config.token_init == "learned":
            return self.tokens.to(a.dtype).expand(a.shape[0], -1, -1)
        return a.new_zeros(a.shape[0], self.config.aggregation_tokens, self.config.width)

    def encode_text(self, text: Tensor) -> Tensor:
        """Two LSTMs, of which all steps are used, and LayerNorm, `(B, Tt, d)`.

        Self-attention follows, except in the figure's wiring.
        """
        x: Tensor = text
        for lstm in self.text_lstms:
            x, _ = lstm(x)
        x = self.text_norm(x)
        if self.config.wiring != "figure":
            x = self.self_attention_encoder(x)
        return x

    def _last_state(self, x: Tensor) -> Tensor:
        """Return the last token `(B, d)`; in the figure's wiring, after self-attention."""
        if self.config.wiring == "figure":
            x = self.self_attention_encoder(x, last_tokens_only=1)
        return x[:, -1]

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> NHFNet:
        """Build the model of a checkpoint, in evaluation mode on the CPU.

        `path` is a file written by this program or in the released code's format. Raises
        `InputError` for a file that is no checkpoint, would run code, or does not fit.
        """
        return restore_model(read_checkpoint(Path(path)), cls)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write, for the mixin, the weights and all else that `from_checkpoint` needs."""
        write_checkpoint(save_directory / _HUB_FILE, self, self.NAME)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> NHFNet:
        """Read, for the mixin, what `_save_pretrained` wrote, from a folder or from the hub."""
        if Path(model_id).is_dir():
            return cls.from_checkpoint(Path(model_id) / _HUB_FILE)
        names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        download_options = {name: options[name] for name in names}
        return cls.from_checkpoint(hf_hub_download(model_id, _HUB_FILE, **download_options))
