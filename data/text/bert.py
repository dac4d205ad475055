"""Loading BERT from a folder, in the layouts of yesterday and of today."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import torch
from pytorch_pretrained_bert import BertConfig, BertModel, BertTokenizer
from pytorch_pretrained_bert.modeling import ACT2FN, BertLayerNorm
from torch import Tensor, nn

from data.text.bert_files import (
    CONFIG_FILES,
    VOCABULARY_FILES,
    WEIGHT_FILES,
    one_of,
    read_config,
    read_vocabulary,
)
from system.errors import InputError
from system.safetensors_file import SUFFIX as SAFETENSORS
from system.safetensors_file import load_safetensors
from system.torch_file import load_torch_file

_ADVICE = "fetch it again."
_SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
# What the encoder's shape needs of a configuration, besides the activation.
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)


def load_bert(folder: Path) -> tuple[BertTokenizer, BertModel]:
    """Load the tokenizer and the encoder that `folder` holds, in evaluation mode on the CPU.

    The folder is in Hugging Face's layout or pytorch_pretrained_bert's: a configuration, a
    vocabulary, and weights as safetensors or as a PyTorch file. Raises InputError when one is
    missing or does not fit the others.
    """
    config = _load_config(one_of(folder, CONFIG_FILES))
    tokenizer = _load_tokenizer(one_of(folder, VOCABULARY_FILES), config.vocab_size)
    with torch.device("meta"):  # no memory for weights before the file's are known to fit
        model = BertModel(config)
    model.pooler = nn.Identity()  # the pooled output is not used
    for module in model.modules():
        if isinstance(module, BertLayerNorm):  # which has its epsilon fixed
            module.variance_epsilon = config.layer_norm_eps
    _load_weights(model, one_of(folder, WEIGHT_FILES))
    return tokenizer, model.eval()


def load_tokenizer(folder: Path) -> tuple[BertTokenizer, int]:
    """Load the tokenizer as `load_bert` does, and how many pieces the BERT takes.

    The weights may be missing.
    """
    config = _load_config(one_of(folder, CONFIG_FILES))
    tokenizer = _load_tokenizer(one_of(folder, VOCABULARY_FILES), config.vocab_size)
    return tokenizer, config.max_position_embeddings


def make_tokenizer(vocabulary: str, vocab_size: int, where: str) -> BertTokenizer:
    """Make the tokenizer of a vocabulary, one piece a line, that is kept at `where`."""
    return _checked(_tokenizer_of(vocabulary.split("\n")), vocab_size, where)


def _load_config(path: Path) -> BertConfig:
    values = read_config(path)
    config = BertConfig(0)
    for name in _SIZES:
        size = values.get(name, getattr(config, name))
        if type(size) is not int or size < 1:  # True is an int too
            raise InputError(f"{path}: {name} is {size!r}, expected a whole number above 0.")
        setattr(config, name, size)
    for name in _DROPOUTS:
        share = values.get(name, getattr(config, name))
        if type(share) not in (int, float) or not 0 <= share < 1:
            raise InputError(f"{path}: {name} is {share!r}, expected a number from 0, below 1.")
        setattr(config, name, float(share))
    config.layer_norm_eps = values.get("layer_norm_eps", 1e-12)
    if not isinstance(config.layer_norm_eps, float) or not 0 < config.layer_norm_eps < 1:
        raise InputError(f"{path}: layer_norm_eps is {config.layer_norm_eps!r}, expected 1e-12.")
    config.hidden_act = values.get("hidden_act", config.hidden_act)
    if config.hidden_act not in list(ACT2FN):
        raise InputError(
            f"{path}: activation {config.hidden_act!r} is unknown, expected one of "
            f"{', '.join(ACT2FN)}."
        )
    if config.hidden_size % config.num_attention_heads:
        raise InputError(
            f"{path}: width {config.hidden_size} does not divide into "
            f"{config.num_attention_heads} heads."
        )
    return config


def _load_tokenizer(path: Path, vocab_size: int) -> BertTokenizer:
    try:
        if path.suffix == ".json":
            tokenizer = _tokenizer_of(read_vocabulary(path))
        else:
            tokenizer = BertTokenizer(str(path), do_lower_case=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}.") from error
    return _checked(tokenizer, vocab_size, str(path))


def _checked(tokenizer: BertTokenizer, vocab_size: int, where: str) -> BertTokenizer:
    """Raise InputError unless the tokenizer is a BERT's that knows so many pieces at most."""
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


def _tokenizer_of(pieces: list[str]) -> BertTokenizer:
    """Make a tokenizer, which reads its vocabulary from a file, a piece a line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / VOCABULARY_FILES[0]
        lines = [piece.replace("\n", " ").replace("\r", " ") for piece in pieces]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
        return BertTokenizer(str(path), do_lower_case=True)


def _load_weights(model: BertModel, path: Path) -> None:
    """Give `model` the file's encoder, as float32; the pooler and the heads stay out."""
    found = {_plain_name(name): tensor for name, tensor in _read_tensors(path).items()}
    expected = model.state_dict()
    problems = [
        f"{name} is missing"
        if name not in found
        else f"{name} is {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name not in found or found[name].shape != expected[name].shape
    ]
    problems += [
        f"{name} is unexpected"
        for name in found
        if name.startswith(("embeddings.", "encoder.")) and name not in expected
    ]
    if problems:
        raise InputError(
            f"{path} does not fit the configuration beside it: {problems[0]}"
            + (f", and {len(problems) - 1} more." if len(problems) > 1 else ".")
        )
    model.load_state_dict({name: found[name].float() for name in expected}, assign=True)


def _plain_name(name: str) -> str:
    """Undo the names of other programs: `bert.` in front, LayerNorm's gamma and beta."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name.removeprefix("bert."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == SAFETENSORS:
        tensors, _ = load_safetensors(path, _ADVICE)
    else:
        tensors = load_torch_file(path, "a BERT's weights", _ADVICE)
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise InputError(f"{path} holds no named weights; expected a BERT's state dict.")
    # position_ids is a table of 0, 1, 2, ... that some versions save.
    return {name: t for name, t in tensors.items() if not name.endswith("position_ids")}
