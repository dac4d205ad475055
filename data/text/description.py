"""What determines text features: the content of a BERT, wherever its folder lies."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.text.bert_files import (
    CONFIG_FILES,
    VOCABULARY_FILES,
    first_existing,
    read_config,
    read_vocabulary,
    weights_facts,
)
from data.text.pieces import vocabulary_digest, vocabulary_text
from system.errors import InputError

# Settings that features depend on, and that cannot be told from the weights.
_SETTINGS = ("num_attention_heads", "hidden_act", "layer_norm_eps")
_LATER_FACTS = ("tokenizer", "settings")  # which earlier versions did not describe


def bert_facts(name_or_folder: str) -> dict[str, Any]:
    """Return what determines the features of a folder's BERT; a hub name stands for itself.

    Facts of a vocabulary or a configuration that cannot be read are left out: loading the BERT
    tells of that, and is not always needed.
    """
    facts: dict[str, Any] = {"encoder": name_or_folder, "weights": weights_facts(name_or_folder)}
    folder = Path(name_or_folder)
    if facts["weights"] is not None:
        with suppress(InputError):
            # What a tokenizer makes of it; importing one takes seconds.
            pieces = read_vocabulary(first_existing(folder, VOCABULARY_FILES))
            numbers = {piece: number for number, piece in enumerate(pieces)}
            facts["tokenizer"] = vocabulary_digest(vocabulary_text(numbers))
        with suppress(InputError):
            config = read_config(first_existing(folder, CONFIG_FILES))
            facts["settings"] = {name: config[name] for name in _SETTINGS if name in config}
    return facts


def is_same_text(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether features that are described as `found` are those described as `wanted`.

    A folder may have moved, if its weights and its vocabulary are known to be the same. Facts that
    an earlier version did not describe count as the same.
    """
    # Earlier versions described the vocabulary only where it had cut the word pieces.
    found = {"tokenizer": found.get("vocabulary"), **found}
    known = [
        name
        for name in wanted
        if name != "encoder" and (name not in _LATER_FACTS or found.get(name) is not None)
    ]
    if not all(name in found and found[name] == wanted[name] for name in known):
        return False
    if wanted["weights"] is None:
        return bool(found.get("encoder") == wanted["encoder"])
    paths = {Path(str(text.get("encoder"))).absolute() for text in (found, wanted)}
    return len(paths) == 1 or "tokenizer" in known
