"""A text encoder in front of any model, trained with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from models.contract import Model
from system.argument_types import whole_number
from system.bert import Bert, BertConfig, means_of_words
from system.config import make_config, setting
from system.errors import InputError

_VOCABULARY, _ORIGIN = "vocabulary", "origin"  # in a checkpoint, beside the configuration


@dataclass(frozen=True)
class TextEncoderConfig(BertConfig):
    """A BERT, and whether it returns one vector per piece or per word."""

    words: int = setting(0, whole_number(0, 4096))  # words per text; 0: one vector per piece


class TextEncoder(nn.Module):
    """A BERT that turns word pieces into the text features of a model.

    `vocabulary` has its pieces in order, one per line; `origin` is where its weights first came
    from.
    """

    def __init__(self, config: TextEncoderConfig, vocabulary: str, origin: str) -> None:
        super().__init__()
        self.config, self.vocabulary, self.origin = config, vocabulary, origin
        self.bert = Bert(config)

    @property
    def width(self) -> int:
        """The count of numbers per piece: id, mask and, with vectors by word, the word position."""
        return 3 if self.config.words else 2

    def forward(self, pieces: Tensor) -> Tensor:
        """Encode `pieces` `(B, T, width)`, whole numbers in a tensor of floats.

        Returns `(B, T, hidden_size)`; by word, `(B, words, hidden_size)`: the mean of each word's
        pieces, and zeros for missing words.
        """
        words, hidden = self.config.words, self.bert(pieces[..., 0].long(), pieces[..., 1])
        encoded: Tensor = means_of_words(hidden, pieces[..., 2], words) if words else hidden
        return encoded

    def freeze(self, layers: int) -> None:
        """Freeze the embeddings and the first `layers`; raises InputError if there are fewer."""
        if layers > self.config.num_hidden_layers:
            raise InputError(
                f"--freeze_layers {layers}: the text encoder has {self.config.num_hidden_layers} "
                "layers; give that number or a smaller one."
            )
        for part in self.bert.parts[: layers + 1]:
            part.requires_grad_(False)

    def check_length(self, length: int, where: str) -> None:
        """Raise InputError unless a text of `length` word pieces can be encoded."""
        max_length = self.config.max_position_embeddings
        if length > max_length:
            raise InputError(
                f"{where}: {length} word pieces a text, but the text encoder takes {max_length}; "
                "use data that were prepared with the same --bert."
            )

    def check_pieces(self, lowest: Sequence[int], highest: Sequence[int], where: str) -> None:
        """Raise InputError unless word pieces with numbers in these ranges can be encoded.

        `lowest` and `highest` are those of the ids, the mask and, by word, the words' positions.
        """
        if lowest[0] < 0 or highest[0] >= self.config.vocab_size:
            raise InputError(
                f"{where}: word pieces from {lowest[0]} to {highest[0]}, but the text encoder "
                f"knows {self.config.vocab_size}; use data that were prepared with the same --bert."
            )
        limits = {"mask": 1, "positions of words": self.config.words}
        for (kind, limit), low, high in zip(limits.items(), lowest[1:], highest[1:], strict=False):
            if low < 0 or high > limit:
                raise InputError(
                    f"{where}: the {kind} of word pieces from {low} to {high}, expected from 0 to "
                    f"{limit}; prepare the data again."
                )

    def example(self, batch: int, length: int, generator: torch.Generator) -> Tensor:
        """Return random word pieces `(batch, length, width)`, the first text's last two padding."""
        shape = batch, length
        ids = torch.randint(self.config.vocab_size, shape, generator=generator)
        numbers = [ids, torch.ones(shape)]
        if self.config.words:  # the first piece belongs to no word
            numbers.append((torch.arange(length) % self.config.words).expand(shape))
        pieces = torch.stack([x.float() for x in numbers], dim=2)
        pieces[0, -2:] = 0
        return pieces

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint stores besides the weights, as plain values."""
        return {**asdict(self.config), _VOCABULARY: self.vocabulary, _ORIGIN: self.origin}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], where: str) -> TextEncoder:
        """Make one from the result of `describe`; raises InputError that begins with `where`."""
        values = dict(description)
        texts = {name: values.pop(name, None) for name in (_VOCABULARY, _ORIGIN)}
        missing = [name for name, text in texts.items() if not isinstance(text, str)]
        missing += sorted({field.name for field in fields(TextEncoderConfig)} - values.keys())
        if missing:
            raise InputError(f"{where}: its text encoder has no {missing[0]}; the file is damaged.")
        return cls(make_config(TextEncoderConfig, values, where), **texts)


class WithTextEncoder(Model):
    """A model of the contract, and a text encoder that turns word pieces into its text input.

    Configuration, outputs and dropout keys are those of the model.
    """

    def __init__(self, text_encoder: TextEncoder, model: Model) -> None:
        widths = {**model.widths, "text": text_encoder.width}
        super().__init__(model.config, widths, model.outputs)
        self.text_encoder, self.model = text_encoder, model
        self.takes_dropout_keys = getattr(model, "takes_dropout_keys", False)

    def forward(self, visual: Tensor, audio: Tensor, text: Tensor, *keys: Tensor) -> Tensor:
        """Predict `(B, outputs)`; `text` is the input of the text encoder."""
        prediction: Tensor = self.model(visual, audio, self.text_encoder(text), *keys)
        return prediction


def text_encoder_of(model: nn.Module) -> TextEncoder | None:
    """Return a model's text encoder; None without one."""
    return model.text_encoder if isinstance(model, WithTextEncoder) else None
