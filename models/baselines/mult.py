"""MulT: multimodal transformer (Tsai et al., ACL 2019), without its CTC module.

Shapes: B batch; Tv, Ta, Tt tokens of visual, audio, text; d the common width (30).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.checkpoint import ENCODER_BUFFERS, PublishedFormat
from models.contract import Model
from models.layers.encoder import Encoder, Extras
from models.layers.recording import AttentionMap, layer_names, mean_over_heads, recorded_attention
from system.argument_types import share_below_one, whole_number
from system.config import CheckedConfig, setting

_LETTERS = {"text": "l", "audio": "a", "visual": "v"}  # in the authors' weight names and order
_PAIRS = [(to, of) for to in _LETTERS for of in _LETTERS if of != to]  # `to` attends to `of`


@dataclass(frozen=True)
class MulTConfig(CheckedConfig):
    """The defaults are the authors'."""

    width: int = setting(30, whole_number(4, 4096), "channels of every token")
    heads: int = setting(5, whole_number(1, 512), "heads of every attention")
    layers: int = setting(5, whole_number(1, 64), "layers of each of the nine encoders")
    text_dropout: float = setting(0.25, share_below_one, "dropout of the text input")
    embedding_dropout: float = setting(0.25, share_below_one, "dropout of an encoder's tokens")
    attention_dropout: float = setting(0.1, share_below_one, "dropout, except over audio or visual")
    hidden_dropout: float = setting(0.1, share_below_one, "dropout after the relu of a layer")
    residual_dropout: float = setting(0.1, share_below_one, "dropout before each residual sum")

    def __post_init__(self) -> None:
        """Check each value, that the heads divide the width, and that the width is even."""
        super().__post_init__()
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width} is odd, or not divisible by {self.heads} heads")


class _MulTFormat(PublishedFormat):
    """The authors' linear layers over time are convolutions with a kernel of 1."""

    def rename(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: weight.squeeze(-1) if name.startswith("projections.") else weight
            for name, weight in super().rename(weights).items()
        }

    def read(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Also drop projections of inputs as wide as the tokens: those inputs are not projected."""
        renamed, widths = super().read(weights)
        return {
            name: weight
            for name, weight in renamed.items()
            if not (name.startswith("projections.") and weight.shape[:1] == weight.shape[-1:])
        }, widths


class MulT(Model):
    """Each modality attends to the two others; a memory encoder then reads both results."""

    Config = MulTConfig
    ATTENTION_MAPS = tuple(f"{to}_over_{of}" for to, of in _PAIRS)
    config: MulTConfig
    PUBLISHED = _MulTFormat(
        prefixes={
            **{f"proj_{letter}.": f"projections.{name}." for name, letter in _LETTERS.items()},
            **{
                f"trans_{_LETTERS[to]}_with_{_LETTERS[of]}.": f"cross_modal.{to}_{of}."
                for to, of in _PAIRS
            },
            **{f"trans_{letter}_mem.": f"memory.{name}." for name, letter in _LETTERS.items()},
            "proj1.": "hidden_1.",
            "proj2.": "hidden_2.",
            "out_layer.": "output.",
        },
        widths={name: f"projections.{name}.weight" for name in _LETTERS},
        never_used=ENCODER_BUFFERS,  # the encoders are the same
    )

    def __init__(self, config: MulTConfig, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, widths, outputs)
        width, fused_width = config.width, 2 * len(_LETTERS) * config.width
        self.projections = nn.ModuleDict(
            {
                name: nn.Linear(widths[name], width, bias=False)
                for name in _LETTERS
                if widths[name] != width
            }
        )
        self.cross_modal = nn.ModuleDict(
            {
                f"{to}_{of}": self._encoder(width, config.attention_dropout * (of == "text"))
                for to, of in _PAIRS
            }
        )
        self.memory = nn.ModuleDict(
            {name: self._encoder(2 * width, config.attention_dropout) for name in _LETTERS}
        )
        self.hidden_1 = nn.Linear(fused_width, fused_width)
        self.hidden_2 = nn.Linear(fused_width, fused_width)
        self.output = nn.Linear(fused_width, outputs)

    def _encoder(self, width: int, attention_dropout: float) -> Encoder:
        config = self.config
        extras = Extras(
            is_masked=True,
            embedding_dropout=config.embedding_dropout,
            hidden_dropout=config.hidden_dropout,
            residual_dropout=config.residual_dropout,
        )
        return Encoder(width, config.heads, config.layers, 4 * width, attention_dropout, extras)

    def forward(self, visual: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """Predict `(B, outputs)` from `(B, Tv, width)`, `(B, Ta, width)`, `(B, Tt, width)`.

        An input as wide as the tokens is not projected.
        """
        text = F.dropout(text, self.config.text_dropout, self.training)
        tokens = {
            name: self.projections[name](x) if name in self.projections else x
            for name, x in (("text", text), ("audio", audio), ("visual", visual))
        }
        last_states = []
        for to in _LETTERS:
            crossed = [
                self.cross_modal[f"{to}_{of}"](tokens[to], memory=tokens[of])
                for of in _LETTERS
                if of != to
            ]
            h = self.memory[to](torch.cat(crossed, dim=-1), last_tokens_only=1)
            last_states.append(h[:, -1])
        h = torch.cat(last_states, dim=-1)
        prediction: Tensor = self.output(self.hidden_2(torch.relu(self.hidden_1(h))) + h)
        return prediction

    def with_attention(
        self, visual: Tensor, audio: Tensor, text: Tensor
    ) -> tuple[Tensor, dict[str, AttentionMap]]:
        """Return the prediction of `forward`, and what each modality attended to."""
        lengths = {"visual": visual.shape[1], "audio": audio.shape[1], "text": text.shape[1]}
        names = layer_names(self.config.layers)
        with recorded_attention(self.cross_modal) as calls:
            prediction = self(visual, audio, text)
        return prediction, {
            f"{to}_over_{of}": AttentionMap(
                mean_over_heads(calls[f"{to}_{of}"][0]), names, {to: lengths[to]}, {of: lengths[of]}
            )
            for to, of in _PAIRS
        }
