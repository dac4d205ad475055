"""Makes a text encoder that is fine-tuned with the model, from a BERT or from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data.layout import TEXT_LENGTH
from data.loading.split import INPUTS, Split
from data.manifest import read_manifest
from models.checkpoint import Checkpoint, read_checkpoint
from models.contract import Model
from models.registry import build, restore_text_encoder
from models.text_encoder import TextEncoder, TextEncoderConfig, WithTextEncoder, text_encoder_of
from system.console import print_line
from system.errors import InputError
from utils.run_config import AS_PREPARED, TEXT_ENCODER_SETTINGS, RunConfig

if TYPE_CHECKING:
    from pytorch_pretrained_bert import BertTokenizer

    from data.text.pieces import PieceCutter


def in_pieces(splits: Mapping[str, Split]) -> dict[str, Split]:
    """Return the splits again, with their text as word pieces."""
    return {name: Split(split.folder, takes_pieces=True) for name, split in splits.items()}


def add_text_encoder(
    model: Model, config: RunConfig, splits: dict[str, Split], resumed: Path | None = None
) -> tuple[Model, dict[str, Split]]:
    """Return the model with a text encoder to fine-tune, and the splits with word pieces for it.

    A model that leaves text out stays as it is. A training that is resumed takes its text encoder
    from the file `resumed`.
    """
    if text_encoder_of(model) is not None:
        raise InputError(
            "--finetune_bert goes without this --checkpoint, whose model has its text encoder; "
            "leave it out: that one is fine-tuned."
        )
    if "text" in getattr(model.config, "left_out", []):
        print_line("No text encoder is fine-tuned: the model leaves text out")
        return model, splits
    splits = in_pieces(splits)
    encoder = None if resumed is None else _resumed_encoder(config, read_checkpoint(resumed))
    if encoder is None:
        encoder = load_text_encoder(config, by_word=splits["train"].widths["text"] == 3)
    width, expected = encoder.config.hidden_size, model.widths["text"]
    if width != expected and config.checkpoint is not None:
        raise InputError(
            f"--finetune_bert: text is {width} wide from this BERT, but the model of --checkpoint "
            f"takes {expected}; give the BERT that its text features came from."
        )
    if width != expected:
        torch.manual_seed(config.seed)
        widths = {**model.widths, "text": width}
        model = build(config.model_name, config.set, widths, model.outputs)
    return WithTextEncoder(encoder, model), splits


def _resumed_encoder(config: RunConfig, checkpoint: Checkpoint) -> TextEncoder | None:
    """Return the text encoder of a training that is resumed; None if its file has none."""
    if checkpoint.text_encoder is None:
        return None
    encoder = restore_text_encoder(checkpoint)
    name = encoder.origin.rpartition(", ")[0]
    if config.finetune_bert not in (AS_PREPARED, name):
        raise InputError(
            f"--finetune_bert {config.finetune_bert}: the training in {checkpoint.path} began with "
            f"{name}; leave the name out, or train anew in another --checkpointdir."
        )
    return encoder.train()


def configure_encoder(model: Model, config: RunConfig) -> None:
    """Freeze layers of the model's text encoder and set its gradient checkpointing, as configured.

    Raises InputError if its settings are given, but there is no text encoder.
    """
    encoder = text_encoder_of(model)
    if encoder is not None:
        encoder.bert.checkpoints = config.gradient_checkpointing
        if config.freeze_layers is not None:
            encoder.freeze(config.freeze_layers)
        return
    settings, defaults = vars(config), vars(RunConfig())
    unused = [name for name in TEXT_ENCODER_SETTINGS if settings[name] != defaults[name]]
    if unused and config.finetune_bert is None:
        raise InputError(
            f"--{unused[0]} is for a text encoder that is fine-tuned, but "
            f"{config.checkpoint or 'the model'} has none; leave it out, or add --finetune_bert."
        )


def load_text_encoder(config: RunConfig, by_word: bool) -> TextEncoder:
    """Load the BERT of `config.finetune_bert`; raises InputError when it cannot be loaded."""
    from data.text.bert import load_bert  # the package is slow to import
    from data.text.bert_files import find_bert
    from data.text.pieces import vocabulary_text

    name, commit = config.finetune_bert, None
    assert name is not None  # callers load only what is named
    if name == AS_PREPARED:
        name, commit = _bert_of_data(config.data_folder)
    folder, commit = find_bert(name, "--finetune_bert", commit)
    tokenizer, bert = load_bert(folder)
    origin = _origin_in_folder(name) or f"{name}, commit {commit}"
    words = TEXT_LENGTH if by_word else 0
    encoder_config = TextEncoderConfig(**asdict(bert.config), words=words)
    encoder = TextEncoder(encoder_config, vocabulary_text(tokenizer.vocab), origin)
    encoder.bert.load_state_dict(bert.state_dict())
    return encoder


def bert_in_folder(config: RunConfig) -> str | None:
    """Return the origin of the BERT if `config.finetune_bert` is a folder; None otherwise.

    A name on the hub, and the BERT that the data were prepared with, identify themselves.
    """
    name = config.finetune_bert
    return None if name is None or name == AS_PREPARED else _origin_in_folder(name)


def _origin_in_folder(name: str) -> str | None:
    from data.text.bert_files import weights_facts

    weights = weights_facts(name)
    return None if weights is None else f"{name}, {weights['sha256']}"


def cutter_of(encoder: TextEncoder, where: str) -> PieceCutter:
    """Return a cutter of sentences into a text encoder's word pieces; errors name `where`."""
    from data.text.pieces import PieceCutter  # the tokenizer's package is slow to import

    config = encoder.config
    return PieceCutter(
        tokenizer_of(encoder, where), config.max_position_embeddings, config.words > 0
    )


def tokenizer_of(encoder: TextEncoder, where: str) -> BertTokenizer:
    """Return the tokenizer of a text encoder's vocabulary; errors name `where` it comes from."""
    from data.text.bert import make_tokenizer  # the package is slow to import

    vocabulary = f"The vocabulary in {where}"
    return make_tokenizer(encoder.vocabulary, encoder.config.vocab_size, vocabulary)


def _bert_of_data(folder: Path) -> tuple[str, str | None]:
    """Return the name of the BERT that encoded the text in `folder`, and its commit.

    Raises InputError if it is not known, or if its folder no longer has the same weights.
    """
    from data.text.bert_files import weights_facts

    text = (read_manifest(folder) or {}).get("text") or {}
    if "weights" not in text:
        raise InputError(
            f"--finetune_bert: {folder} does not say which BERT encoded its text; give the BERT's "
            "name or folder, and prepare the data with it (--bert)."
        )
    name, commit = text["encoder"], text.get("commit")
    if weights_facts(name) != text["weights"]:
        fault = "has other weights now" if Path(name).is_dir() else "is not a folder any more"
        raise InputError(
            f"--finetune_bert: {name}, which encoded the text in {folder}, {fault}; put it back, "
            "or give the BERT to begin with: --finetune_bert NAME_OR_DIR."
        )
    return name, commit if isinstance(commit, str) else None


def check_pieces(model: Model, split: Split) -> None:
    """Raise InputError unless the model's text encoder, if any, takes the split's word pieces."""
    from data.text.pieces import vocabulary_digest

    encoder = text_encoder_of(model)
    if encoder is None:
        return
    width, expected = split.widths["text"], encoder.width
    if width != expected:
        alignments = {2: "segment", 3: "word"}  # by the number of rows
        if width not in alignments:
            raise InputError(
                f"{split.folder}: {width} rows of word pieces a text, expected {expected}; prepare "
                "the data again."
            )
        raise InputError(
            f"{split.folder}: its word pieces are those of --alignment {alignments[width]}, but "
            f"the text encoder takes those of {alignments[expected]}; use data aligned like that."
        )
    text = (read_manifest(split.folder.parent) or {}).get("text") or {}
    if text.get("vocabulary") not in (None, vocabulary_digest(encoder.vocabulary)):
        raise InputError(
            f"{split.folder}: its word pieces are of another vocabulary than the text encoder's; "
            "use the BERT that the data were prepared with, or prepare them with this one (--bert)."
        )
    length = split.shapes[INPUTS.index("text")][0]
    encoder.check_length(length, str(split.folder))  # before `pieces_ranges` reads all of them
    encoder.check_pieces(*split.pieces_ranges, str(split.folder))
