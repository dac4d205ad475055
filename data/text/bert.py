"""Loading BERT from a folder, in Hugging Face's layout or pytorch_pretrained_bert's."""

from __future__ import annotations

import re
import tempfile
from dataclasses import fields
from pathlib import Path

import torch
from pytorch_pretrained_bert import BertTokenizer
from torch import Tensor

from data.text.bert_files import (
    CONFIG_FILES,
    VOCABULARY_FILES,
    WEIGHT_FILES,
    first_existing,
    read_config,
    read_vocabulary,
)
from system.bert import Bert, BertConfig
from system.config import make_config
from system.errors import InputError
from system.safetensors_file import SUFFIX as SAFETENSORS
from system.safetensors_file import load_safetensors
from system.torch_file import load_torch_file
from system.weights import check_weights, is_state_dict

_ADVICE = "fetch it again."
_PARTS = ("embeddings.", "encoder.")
_SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def load_bert(folder: Path) -> tuple[BertTokenizer, Bert]:
    """Load the tokenizer and the encoder that `folder` holds, in evaluation mode on the CPU.

    The folder is in Hugging Face's layout or pytorch_pretrained_bert's: a configuration, a
    vocabulary, and weights as safetensors or as a PyTorch file. Raises InputError when one is
    missing or does not fit the others.
    """
    tokenizer, config = load_tokenizer(folder)
    with torch.device("meta"):  # takes no memory before the file's weights are known to fit
        model = Bert(config)
    _load_weights(model, first_existing(folder, WEIGHT_FILES))
    return tokenizer, model.eval()


def load_tokenizer(folder: Path) -> tuple[BertTokenizer, BertConfig]:
    """Load the tokenizer and the configuration as `load_bert` does; the weights may be missing."""
    path = first_existing(folder, CONFIG_FILES)
    values = read_config(path)
    settings = {x.name: values[x.name] for x in fields(BertConfig) if x.name in values}
    config = make_config(BertConfig, settings, str(path))
    path = first_existing(folder, VOCABULARY_FILES)
    vocabulary = "\n".join(read_vocabulary(path))
    return make_tokenizer(vocabulary, config.vocab_size, str(path)), config


def make_tokenizer(vocabulary: str, vocab_size: int, where: str) -> BertTokenizer:
    """Make a tokenizer from a vocabulary, one piece a line; `where` is its file, for messages.

    Raises InputError if it is not a BERT's, or has too many pieces.
    """
    with tempfile.TemporaryDirectory() as folder:  # a tokenizer reads its vocabulary from a file
        path = Path(folder) / VOCABULARY_FILES[0]
        text = vocabulary.replace("\r", " ") + "\n"
        path.write_text(text, encoding="utf-8", errors="replace")
        tokenizer = BertTokenizer(str(path), do_lower_case=True)
    missing = [piece for piece in _SPECIAL_PIECES if piece not in tokenizer.vocab]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}; it is no BERT vocabulary.")
    pieces = max(tokenizer.vocab.values()) + 1
    if pieces > vocab_size:
        raise InputError(
            f"{where} has {pieces} pieces, but the configuration beside it says {vocab_size}; "
            "the files belong to different models."
        )
    return tokenizer


def _load_weights(model: Bert, path: Path) -> None:
    """Load the file's encoder weights into `model` as float32, without pooler and heads."""
    if path.suffix == SAFETENSORS:
        tensors, _ = load_safetensors(path, _ADVICE)
    else:
        tensors = load_torch_file(path, "a BERT's weights", _ADVICE)
    if not is_state_dict(tensors):
        raise InputError(f"{path} holds no named weights; expected a BERT's state dict.")
    encoder: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = _plain_name(name)
        # Some versions save position_ids, a table of 0, 1, 2, ...
        if not plain.startswith(_PARTS) or plain.endswith("position_ids"):
            continue
        if plain in encoder:
            raise InputError(f"{path} has {plain} under two names; expected one BERT's weights.")
        encoder[plain] = tensor
    if not encoder:
        raise InputError(
            f"{path} has no weights named {' or '.join(f'{part}*' for part in _PARTS)}; expected "
            "those of a BERT."
        )
    check_weights(model, encoder, path, "the configuration beside it")
    model.load_state_dict({name: x.float() for name, x in encoder.items()}, assign=True)


def _plain_name(name: str) -> str:
    """Return our name of a weight: without `bert.`, and weight and bias for gamma and beta."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name.removeprefix("bert."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
