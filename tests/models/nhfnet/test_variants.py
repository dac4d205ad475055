"""Configurations of NHFNet that leave out parts, or wire them differently."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import nn

from models.nhfnet import NHFNet, NHFNetConfig
from models.nhfnet.config import MODALITIES
from models.registry import build
from system.config import parse_assignments
from system.errors import InputError
from tests.plain import PlainNHFNet

WIDTHS = {"visual": 5, "audio": 6, "text": 7}
SUBSETS = [",".join(some) for n in (1, 2, 3) for some in combinations(MODALITIES, n)]
# The parameters that a model may lack, by the part that they belong to.
PARTS = {
    "text": {"text_lstms", "text_norm"},
    "audio": {"audio_linear"},
    "visual": {"visual_linear"},
    "cross-modal attention": {"cross_modal_encoder"},
}


def make(widths=WIDTHS, **settings):
    torch.manual_seed(3)
    model = NHFNet(NHFNetConfig(**settings), widths)
    for parameter in model.parameters():  # biases and norms away from 0 and 1
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def inputs(widths=WIDTHS, lengths=(6, 4, 5)):
    """Visual, audio, text, by name."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(2, length, width, generator=generator)
        for (name, width), length in zip(widths.items(), lengths, strict=True)
    }


def parts_of(model):
    return {name.partition(".")[0] for name, _ in model.named_parameters()}


@pytest.mark.parametrize("wiring", ["released", "figure"])
@pytest.mark.parametrize("modalities", SUBSETS)
def test_a_model_of_some_modalities_depends_on_these_alone(modalities, wiring):
    model, used = make(modalities=modalities, wiring=wiring), modalities.split(",")
    x = inputs()
    output = model(**x)
    assert output.shape == (2, 1)
    output.sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    for name in MODALITIES:
        changed = model(**{**x, name: x[name] + 1})
        assert torch.equal(changed, output) == (name not in used)
    left_out = model.config.left_out
    assert [name for name in MODALITIES if name in left_out] == [
        name for name in MODALITIES if name not in used
    ]
    assert ("aggregation tokens" in left_out) == (not {"audio", "visual"} <= set(used))
    assert ("cross-modal attention" in left_out) == (used == ["text"] or "text" not in used)
    for part, parameters in PARTS.items():
        assert (part in left_out) == (not parameters & parts_of(model))
    is_needed = "text" in used or wiring == "figure"
    assert ("self_attention_encoder" in parts_of(model)) == is_needed
    assert ("audio_visual_encoder" in parts_of(model)) == (used != ["text"])


def test_the_whole_model_leaves_nothing_out():
    assert NHFNetConfig().left_out == []


def test_the_figures_wiring_is_the_literal_one_with_the_same_weights():
    widths = {"visual": 35, "audio": 74, "text": 20}
    model = make(widths, wiring="figure")
    assert list(model.state_dict()) == list(make(widths).state_dict())
    plain = PlainNHFNet(model.state_dict(), wiring="figure").eval()
    x = inputs(widths)
    with torch.no_grad():
        output = model(**x)
        torch.testing.assert_close(output, plain(**x), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(output, make(widths)(**x), atol=1e-3)


@pytest.mark.parametrize("lengths", [(6, 4, 5), (4, 4, 5)])
def test_without_tokens_audio_and_visual_are_concatenated(lengths):
    model, x = make(aggregation_tokens=0), inputs(lengths=lengths)
    encode = model.audio_visual_encoder
    a, v = encode(model.audio_linear(x["audio"])), encode(model.visual_linear(x["visual"]))
    expected = encode(encode(torch.cat([a, v], dim=1)))
    torch.testing.assert_close(
        model.fuse_audio_visual(x["visual"], x["audio"]), expected, atol=1e-5, rtol=1e-5
    )
    assert model.config.left_out == ["aggregation tokens"]


@pytest.mark.parametrize("passes", [1, 3])
def test_fusion_passes_are_the_encoders_calls_on_the_fused_tokens(passes):
    model, x = make(fusion_passes=passes), inputs()
    encode, tokens = model.audio_visual_encoder, torch.zeros(2, 4, 32)
    a, f = encode(model.audio_linear(x["audio"])), encode(model.visual_linear(x["visual"]))
    f = torch.cat([encode(torch.cat([a, tokens], dim=1))[:, -4:], f], dim=1)
    for _ in range(passes):
        f = encode(f)
    torch.testing.assert_close(
        model.fuse_audio_visual(x["visual"], x["audio"]), f, atol=1e-5, rtol=1e-5
    )


def test_learned_tokens_are_a_parameter_and_zeros_are_none():
    learned = make(token_init="learned")
    assert parts_of(learned) - parts_of(make()) == {"tokens"}
    assert learned.tokens.shape == (4, 32)
    learned(**inputs()).sum().backward()
    assert learned.tokens.grad.abs().sum() > 0
    with torch.no_grad():
        learned.tokens.zero_()
        as_zeros = make()
        as_zeros.load_state_dict({k: v for k, v in learned.state_dict().items() if k != "tokens"})
        assert torch.equal(learned(**inputs()), as_zeros(**inputs()))


def test_learned_tokens_begin_small_and_different():
    """They are drawn with a deviation of 0.02; here are enough tokens to measure it."""
    torch.manual_seed(0)
    tokens = NHFNet(NHFNetConfig(token_init="learned", aggregation_tokens=100), WIDTHS).tokens
    assert tokens.shape == (100, 32)
    assert tokens.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(tokens.mean().item()) < 0.002
    assert len(tokens.unique()) > 3000


@pytest.mark.parametrize("wiring", ["released", "figure"])
@pytest.mark.parametrize("modalities", SUBSETS)
def test_settings_of_missing_parts_do_not_count(modalities, wiring):
    others = {"cross_modal_dropout": 0.1, "token_init": "learned", "text_hidden": 7}
    model = make(modalities=modalities, wiring=wiring, **others)
    effective = NHFNet(model.config.effective, WIDTHS).eval()
    effective.load_state_dict(model.state_dict())
    torch.testing.assert_close(effective(**inputs()), model(**inputs()))
    if modalities in ("audio", "visual"):
        assert effective.config == make(modalities=modalities, wiring=wiring).config.effective


@pytest.mark.parametrize("wiring", ["released", "figure"])
def test_without_cross_modal_attention_its_terms_are_missing(wiring):
    model, x = make(cross_modal=False, wiring=wiring), inputs()
    assert "cross_modal_encoder" not in parts_of(model)
    t = model.text_norm(model.text_lstms[1](model.text_lstms[0](x["text"])[0])[0])
    f = model.fuse_audio_visual(x["visual"], x["audio"])
    f = model.self_attention_encoder(f) if wiring == "figure" else f
    expected = model.output(model.self_attention_encoder(t)[:, -1] + f[:, -1])
    torch.testing.assert_close(model(**x), expected, atol=1e-5, rtol=1e-5)


def test_text_only_is_nhfnets_text_path():
    model = build("text_only", {"layers": 2}, WIDTHS, 3)
    same = NHFNet(NHFNetConfig(layers=2, modalities="text"), WIDTHS, 3).eval()
    same.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(**inputs()), same(**inputs()))
    with pytest.raises(InputError, match="modalities"):
        build("text_only", {"modalities": "audio"}, WIDTHS, 1)


@pytest.mark.parametrize("text", ["audio,text", "visual", "text,audio,visual"])
def test_modalities_are_set_in_any_order(text):
    values = parse_assignments(NHFNetConfig, [f"modalities={text}"], "--set")
    assert {name for name in MODALITIES if NHFNetConfig(**values).uses(name)} == set(
        text.split(",")
    )


@pytest.mark.parametrize("text", ["", "smell", "audio,audio", "audio,", "text audio"])
def test_what_is_no_set_of_modalities_is_refused(text):
    with pytest.raises(InputError, match="expected some of text,audio,visual"):
        parse_assignments(NHFNetConfig, [f"modalities={text}"], "--set")
