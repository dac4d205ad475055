"""NHFNet's attention maps: aggregation tokens over time, text and fused tokens over each other."""

from __future__ import annotations

from torch import Tensor

from models.layers.recording import AttentionMap, Calls, layer_names, mean_over_heads
from models.nhfnet.config import TextPathConfig

TOKENS_OVER_AUDIO, TOKENS_OVER_VISUAL = "tokens_over_audio", "tokens_over_visual"
TEXT_OVER_FUSED, FUSED_OVER_TEXT = "text_over_fused", "fused_over_text"
ATTENTION_MAPS = (TOKENS_OVER_AUDIO, TOKENS_OVER_VISUAL, TEXT_OVER_FUSED, FUSED_OVER_TEXT)


def maps_of_calls(
    config: TextPathConfig, visual: Tensor, audio: Tensor, text: Tensor, calls: Calls
) -> dict[str, AttentionMap]:
    """Return the maps of a forward pass with these inputs, from its recorded encoder `calls`.

    Maps of parts that the configuration leaves out are missing.
    """
    lengths = {"audio": audio.shape[1], "visual": visual.shape[1], "text": text.shape[1]}
    names, maps = layer_names(config.layers), {}
    fused = {kind: lengths[kind] for kind in ("audio", "visual") if config.uses(kind)}
    if config.aggregates:
        tokens, passes = config.aggregation_tokens, config.fusion_passes
        fused = {"token": tokens, "visual": lengths["visual"]}
        # The encoder's last calls: audio followed by the tokens, then each fusion pass, in which
        # the tokens come before visual.
        over_audio, *over_visual = calls["audio_visual_encoder"][-1 - passes :]
        maps[TOKENS_OVER_AUDIO] = AttentionMap(
            mean_over_heads([layer[:, :, -tokens:] for layer in over_audio]),
            names,
            {"token": tokens},
            {"audio": lengths["audio"], "token": tokens},
        )
        maps[TOKENS_OVER_VISUAL] = AttentionMap(
            mean_over_heads([layer[:, :, :tokens] for call in over_visual for layer in call]),
            layer_names(config.layers, passes),
            {"token": tokens},
            fused,
        )
    if config.crosses:
        f_over_h, h_over_f = map(mean_over_heads, calls["cross_modal_encoder"])
        words = {"text": lengths["text"]}
        maps[TEXT_OVER_FUSED] = AttentionMap(h_over_f, names, words, fused)
        maps[FUSED_OVER_TEXT] = AttentionMap(f_over_h, names, fused, words)
    return maps
