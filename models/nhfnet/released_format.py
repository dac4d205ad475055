"""The released checkpoint's names, and ours.

The released code saves modules that no forward pass uses, and one name misspelt; neither
reaches our model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_PREFIXES = {
    "audio_visual_model.audio_linear.": "audio_linear.",
    "audio_visual_model.visual_linear.": "visual_linear.",
    "audio_visual_model.transformer.": "audio_visual_encoder.",
    "cross_transformer.": "cross_modal_encoder.",
    "classifcation.": "self_attention_encoder.",
    "text_model.": "text_lstms.",
    "layer_norm.": "text_norm.",
    "multimodal_classifier.0.": "output.",
}
_NEVER_USED = re.compile(r"\.(mem_proj|att_proj)\.0\.|\.version$|\.embed_positions\._float_tensor$")
_MARK = "audio_visual_model."  # no name of ours begins so


def is_released(names: Iterable[str]) -> bool:
    """Tell whether these are the names of a released checkpoint."""
    return any(name.startswith(_MARK) for name in names)


def rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the released weights our names and drop those no forward pass uses.

    A name that neither list knows stays as it is, for the loading check to report.
    """
    return {
        _rename_one(name): tensor
        for name, tensor in weights.items()
        if not _NEVER_USED.search(name)
    }


def _rename_one(name: str) -> str:
    for prefix, ours in _PREFIXES.items():
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    return name


def sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Read the model's input widths off its renamed weights; a missing one is left out."""
    sources = {
        "visual": "visual_linear.weight",
        "audio": "audio_linear.weight",
        "text": "text_lstms.0.weight_ih_l0",
    }
    return {size: weights[name].shape[-1] for size, name in sources.items() if name in weights}
