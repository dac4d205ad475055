"""NHFNet's attention maps are those of its forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.layers.recording import recorded_attention
from models.native import accelerate
from models.nhfnet import NHFNet, NHFNetConfig
from models.nhfnet.attention import ATTENTION_MAPS
from models.nhfnet.text_only import TextOnly

WIDTHS = {"visual": 5, "audio": 6, "text": 7}
LENGTHS = {"visual": 6, "audio": 4, "text": 5}
OVER_AUDIO, OVER_VISUAL, TEXT_OVER, OVER_TEXT = ATTENTION_MAPS
TOKENS, CROSS = {OVER_AUDIO, OVER_VISUAL}, {TEXT_OVER, OVER_TEXT}
# Settings, the maps that remain, and the kinds of fused tokens.
CASES = [
    ({}, TOKENS | CROSS, {"token": 4, "visual": 6}),
    ({"wiring": "figure"}, TOKENS | CROSS, {"token": 4, "visual": 6}),
    ({"token_init": "learned", "aggregation_tokens": 2}, TOKENS | CROSS, {"token": 2, "visual": 6}),
    ({"fusion_passes": 1}, TOKENS | CROSS, {"token": 4, "visual": 6}),
    ({"layers": 1}, TOKENS | CROSS, {"token": 4, "visual": 6}),
    ({"cross_modal": False}, TOKENS, {"token": 4, "visual": 6}),
    ({"modalities": "audio,visual", "wiring": "figure"}, TOKENS, {"token": 4, "visual": 6}),
    ({"aggregation_tokens": 0}, CROSS, {"audio": 4, "visual": 6}),
    ({"modalities": "text,audio"}, CROSS, {"audio": 4}),
    ({"modalities": "text,visual"}, CROSS, {"visual": 6}),
    ({"modalities": "text"}, set(), None),
    ({"modalities": "audio"}, set(), None),
    ({"modalities": "visual", "wiring": "figure"}, set(), None),
]


def make(**settings):
    torch.manual_seed(3)
    model = NHFNet(NHFNetConfig(**{"layers": 3, **settings}), WIDTHS)
    for parameter in model.parameters():  # biases and norms away from 0 and 1
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def inputs(**lengths):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(2, length, WIDTHS[name], generator=generator)
        for name, length in {**LENGTHS, **lengths}.items()
    }


@pytest.mark.parametrize(
    ("settings", "names", "fused"), CASES, ids=[str(settings) for settings, *_ in CASES]
)
@torch.no_grad()
def test_every_configuration_has_the_maps_of_its_parts(settings, names, fused):
    model, x = make(**settings), inputs()
    prediction, maps = model.with_attention(**x)
    assert torch.equal(prediction, model(**x))
    assert set(maps) == names
    layers, tokens = model.config.layers, {"token": model.config.aggregation_tokens}
    axes = {
        OVER_AUDIO: (layers, tokens, {"audio": 4, **tokens}),
        OVER_VISUAL: (layers * model.config.fusion_passes, tokens, fused),
        TEXT_OVER: (layers, {"text": 5}, fused),
        OVER_TEXT: (layers, fused, {"text": 5}),
    }
    for name, attention_map in maps.items():
        count, rows, columns = axes[name]
        assert (list(attention_map.rows.items()), list(attention_map.columns.items())) == (
            list(rows.items()),
            list(columns.items()),
        )
        shape = (count, 2, sum(rows.values()), sum(columns.values()))
        assert attention_map.weights.shape == shape
        assert len(set(attention_map.layers)) == count
        assert attention_map.weights.min() >= 0
        torch.testing.assert_close(attention_map.weights.sum(dim=-1), torch.ones(shape[:3]))


@torch.no_grad()
def test_the_weights_times_the_values_are_what_a_layer_gives():
    model, x, attentions = make(), inputs(), []
    for name, module in model.named_modules():
        if name.endswith("self_attn"):
            module.register_forward_hook(
                lambda module, inputs, out: attentions.append((module, inputs, out))
            )
    with recorded_attention(model) as calls:
        model(**x)
    by_encoder = {
        name: [weights for call in encoder_calls for weights in call]
        for name, encoder_calls in calls.items()
    }
    assert {name: len(weights) // 3 for name, weights in by_encoder.items()} == {
        "audio_visual_encoder": 2 + 1 + 2,
        "cross_modal_encoder": 2,
        "self_attention_encoder": 1 + 2,
    }
    for name, encoder in model.named_children():
        if name in by_encoder:
            modules = [layer.self_attn for layer in encoder.layers]
            records = [record for record in attentions if record[0] in modules]
            for weights, (attention, args, out) in zip(by_encoder[name], records, strict=True):
                queries, memory = args[:2]
                memory = queries if memory is None else memory
                _, _, weight_v = attention.in_proj_weight.chunk(3)
                _, _, bias_v = attention.in_proj_bias.chunk(3)
                values = nn.functional.linear(memory, weight_v, bias_v)
                values = values.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
                expected = attention.out_proj((weights @ values).transpose(1, 2).flatten(2))
                torch.testing.assert_close(out, expected)


@torch.no_grad()
def test_the_maps_are_those_of_the_calls_that_they_are_named_after():
    model, x = make(), inputs()
    _, maps = model.with_attention(**x)
    encode, cross = model.audio_visual_encoder, model.cross_modal_encoder
    h = model.encode_text(x["text"])

    def weights_of(*calls):
        """Return each call's output, and the weights by layer, whole and averaged over heads."""
        with recorded_attention(model) as recorded:
            outputs = [call() for call in calls]
        (encoder_calls,) = [encoder_calls for encoder_calls in recorded.values() if encoder_calls]
        return outputs, torch.stack([weights.mean(dim=1) for weights in encoder_calls[-1]])

    a = torch.cat([encode(model.audio_linear(x["audio"])), torch.zeros(2, 4, 32)], dim=1)
    (z,), over_audio = weights_of(lambda: encode(a))
    torch.testing.assert_close(maps[OVER_AUDIO].weights, over_audio[:, :, -4:])
    f = torch.cat([z[:, -4:], encode(model.visual_linear(x["visual"]))], dim=1)
    for number in range(2):
        (f,), over_visual = weights_of(lambda f=f: encode(f))
        pass_weights = maps[OVER_VISUAL].weights[3 * number : 3 * number + 3]
        torch.testing.assert_close(pass_weights, over_visual[:, :, :4], atol=1e-5, rtol=1e-4)
    for name, (x_to, memory) in {OVER_TEXT: (f, h), TEXT_OVER: (h, f)}.items():
        _, weights = weights_of(lambda x_to=x_to, memory=memory: cross(x_to, memory=memory))
        torch.testing.assert_close(maps[name].weights, weights, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("modality", LENGTHS)
@torch.no_grad()
def test_another_value_at_a_position_changes_the_maps_that_see_it(modality):
    model, x = make(), inputs()
    _, before = model.with_attention(**x)
    x[modality][:, 1] = 0
    _, after = model.with_attention(**x)
    unseen = {"text": TOKENS, "visual": {OVER_AUDIO}, "audio": set()}[modality]
    for name in ATTENTION_MAPS:
        is_same = torch.equal(before[name].weights, after[name].weights)
        assert is_same == (name in unseen)


@torch.no_grad()
def test_equal_lengths_and_compiled_encoders_make_no_difference():
    model, x = make(), inputs(visual=5, audio=5)
    prediction, maps = model.with_attention(**x)
    native_prediction, native_maps = accelerate(model).with_attention(**x)
    torch.testing.assert_close(native_prediction, prediction, atol=1e-5, rtol=1e-5)
    for name in ATTENTION_MAPS:
        torch.testing.assert_close(native_maps[name].weights, maps[name].weights)


def test_nothing_is_recorded_afterwards():
    model = make()
    with recorded_attention(model) as calls, torch.no_grad():
        model(**inputs())
    counts = {name: len(encoder_calls) for name, encoder_calls in calls.items()}
    model(**inputs())
    assert {name: len(encoder_calls) for name, encoder_calls in calls.items()} == counts
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_text_alone_has_no_maps():
    assert not TextOnly.ATTENTION_MAPS
