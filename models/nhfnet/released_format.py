"""The names of NHFNet's weights in the released code's checkpoints.

The released code saves modules that no forward pass uses, and misspells one name; neither
reaches our model.
"""

from __future__ import annotations

from models.checkpoint import ENCODER_BUFFERS, PublishedFormat

RELEASED = PublishedFormat(
    prefixes={
        "audio_visual_model.audio_linear.": "audio_linear.",
        "audio_visual_model.visual_linear.": "visual_linear.",
        "audio_visual_model.transformer.": "audio_visual_encoder.",
        "cross_transformer.": "cross_modal_encoder.",
        "classifcation.": "self_attention_encoder.",
        "text_model.": "text_lstms.",
        "layer_norm.": "text_norm.",
        "multimodal_classifier.0.": "output.",
    },
    never_used=rf"\.(mem_proj|att_proj)\.0\.|{ENCODER_BUFFERS}",
    widths={
        "visual": "visual_linear.weight",
        "audio": "audio_linear.weight",
        "text": "text_lstms.0.weight_ih_l0",
    },
)
