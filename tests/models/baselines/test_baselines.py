"""Tests of the baselines beyond the golden numbers: dropout, odd lengths, odd widths."""

from __future__ import annotations

import pytest
import torch

from models.baselines.msaf import MSAFConfig, SplitAttention
from models.checkpoint import read_checkpoint
from models.registry import build, restore

WIDTHS = {"visual": 35, "audio": 74, "text": 20}


def inputs(batch, *lengths):
    generator = torch.Generator().manual_seed(0)
    shapes = zip(lengths, WIDTHS.values(), strict=True)
    return [torch.randn(batch, *shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("name", ["lf_dnn", "lmf", "tfn", "msaf"])
def test_a_batch_of_one_segment_trains_by_the_running_statistics(name):
    torch.manual_seed(0)
    model, x = build(name, {"dropout": 0.0}, WIDTHS, 2), inputs(1, 7, 7, 7)
    alone = model.train()(*x)
    assert alone.shape == (1, 2)
    assert torch.equal(alone, model.eval()(*x))


@pytest.mark.parametrize("name", ["mult", "msaf", "lf_dnn", "lmf", "tfn"])
def test_dropout_is_drawn_from_the_generator_in_training(name):
    model, x = build(name, {}, WIDTHS, 1).train(), inputs(3, 7, 8, 6)
    torch.manual_seed(1)
    first, second = model(*x), model(*x)
    torch.manual_seed(1)
    assert torch.equal(model(*x), first)
    assert not torch.equal(first, second)


MULT_DROPOUTS = [f"{part}_dropout" for part in "text embedding attention hidden residual".split()]


@pytest.mark.parametrize("active", [None, *MULT_DROPOUTS])
def test_each_of_mults_dropouts_can_be_set(active):
    shares = {name: 0.5 * (name == active) for name in MULT_DROPOUTS}
    model, x = build("mult", {"layers": 1, **shares}, WIDTHS, 1), inputs(2, 4, 5, 6)
    outputs = [model.train()(*x), model(*x), model.eval()(*x)]
    assert (len({output.sum().item() for output in outputs}) == 1) == (active is None)


def test_mult_drops_attention_where_the_memory_is_text_and_in_the_last_encoders():
    model = build("mult", {}, WIDTHS, 1)
    dropouts = {name: encoder.attention_dropout for name, encoder in model.cross_modal.items()}
    assert {name for name, share in dropouts.items() if share == 0.1} == {
        "audio_text",
        "visual_text",
    }
    assert sum(dropouts.values()) == 0.2
    assert [encoder.attention_dropout for encoder in model.memory.values()] == [0.1] * 3


def test_mult_does_not_project_an_input_of_its_own_width():
    widths = {"visual": 35, "audio": 30, "text": 30}
    model = build("mult", {"layers": 1}, widths, 1)
    assert list(model.projections) == ["visual"]
    assert model(*(torch.randn(2, 4, width) for width in widths.values())).shape == (2, 1)


def test_what_mults_authors_save_and_do_not_use_is_left_out(tmp_path):
    widths = {"visual": 35, "audio": 30, "text": 30}
    model = build("mult", {}, widths, 1).eval()
    unused = {
        **{f"proj_{letter}.weight": torch.randn(30, 30, 1) for letter in "la"},
        "trans_l_with_a.version": torch.tensor([2.0]),
        "trans_l_mem.embed_positions._float_tensor": torch.zeros(1),
    }
    torch.save({"model_state_dict": {**model.state_dict(), **unused}}, tmp_path / "published.pth")
    _, restored = restore(read_checkpoint(tmp_path / "published.pth"), "mult")
    assert restored.widths == widths
    x = [torch.randn(2, 4, width) for width in widths.values()]
    assert torch.equal(restored(*x), model(*x))


@pytest.mark.parametrize("name", ["mult", "msaf", "lf_dnn", "lmf", "tfn"])
@pytest.mark.parametrize("lengths", [(1, 1, 1), (3, 11, 4)])
def test_any_length_gives_numbers(name, lengths):
    assert build(name, {}, WIDTHS, 1).eval()(*inputs(2, *lengths)).isfinite().all()


def test_tfn_stays_within_the_scale():
    outputs = build("tfn", {}, WIDTHS, 1).eval()(*(1e4 * x for x in inputs(9, 3, 3, 3)))
    assert (outputs.abs() <= 3).all()


@pytest.mark.parametrize(("name", "width"), [("mult", 32), ("mult", 35), ("msaf", 40)])
def test_sizes_that_do_not_divide_are_refused(name, width):
    setting = "width" if name == "mult" else "text_hidden"
    with pytest.raises(Exception, match=f"{setting} {width} is .*not divisible by"):
        build(name, {setting: width}, WIDTHS, 1)


def test_msafs_dropout_takes_whole_blocks_of_a_sample_and_scales_up_twice():
    torch.manual_seed(0)
    fusion = SplitAttention(channels=[8, 8, 8], block=4, joint_hidden=3, dropout=0.2).train()
    for dense in fusion.dense_group:  # every block has the same attention
        torch.nn.init.zeros_(dense.weight)
        torch.nn.init.zeros_(dense.bias)
    steps = [torch.ones(50, length, 8) for length in (3, 5, 2)]
    outputs = fusion(steps)
    assert [x.shape for x in outputs] == [x.shape for x in steps]
    blocks = [x.unflatten(-1, (2, 4)) for x in outputs]
    for x in blocks:  # one decision for all steps and channels of a block
        assert torch.equal(x, x[:, :1, :, :1].expand_as(x))
    values = torch.cat([x[:, 0, :, 0].flatten() for x in blocks])
    torch.testing.assert_close(values.unique(), torch.tensor([0.0, 1.25**2 / 6]))
    assert 0.1 < (values == 0).float().mean() < 0.3


def test_msafs_parts_have_equal_lengths_and_the_last_one_the_rest():
    model = build("msaf", {}, WIDTHS, 1)
    lengths = {
        t: [part.shape[1] for part in model._segments(torch.zeros(1, t, 2))] for t in (4, 53)
    }
    assert lengths == {4: [0, 0, 0, 0, 4], 53: [10, 10, 10, 10, 13]}
    assert MSAFConfig().segments == 5


@torch.no_grad()
def test_mults_attention_maps_are_those_of_its_masked_encoders():
    torch.manual_seed(0)
    model = build("mult", {"layers": 2}, WIDTHS, 1).eval()
    x = inputs(2, 4, 6, 5)
    prediction, maps = model.with_attention(*x)
    assert torch.equal(prediction, model(*x))
    assert set(maps) == set(model.ATTENTION_MAPS)
    lengths = {"visual": 4, "audio": 6, "text": 5}
    for name, attention_map in maps.items():
        to, _, of = name.split("_")
        assert (attention_map.rows, attention_map.columns) == ({to: lengths[to]}, {of: lengths[of]})
        assert attention_map.weights.shape == (2, 2, lengths[to], lengths[of])
        torch.testing.assert_close(attention_map.weights.sum(dim=-1), torch.ones(2, 2, lengths[to]))
        masked = torch.ones(lengths[to], lengths[of]).triu(1 + abs(lengths[to] - lengths[of]))
        assert not attention_map.weights[..., masked.bool()].any()
    x[1][:, 2] = 0  # audio
    _, changed_maps = model.with_attention(*x)
    changed = {n for n in maps if not torch.equal(maps[n].weights, changed_maps[n].weights)}
    assert changed == {name for name in maps if "audio" in name}
