"""What a model with a text encoder costs."""

from __future__ import annotations

import gc
import re
import sys
import weakref
from dataclasses import replace

import pytest
import torch

from models.registry import build
from models.text_encoder import WithTextEncoder
from tests.models.test_text_encoder import TINY, WIDTHS, tiny, tiny_pieces
from utils.reports.costs import count_flops, count_total_flops, model_table, training_memory

INPUTS = [torch.ones(3, 5, WIDTHS["visual"]), torch.ones(3, 5, WIDTHS["audio"]), tiny_pieces()]


def model_of(checkpoints=False, **changes):
    model = build("text_only", {"layers": 1}, WIDTHS, 1)
    model = WithTextEncoder(tiny(replace(TINY, **changes)), model)
    model.text_encoder.bert.checkpoints = checkpoints
    return model


def activations(precision="float32", **changes):
    line = training_memory(model_of(**changes), INPUTS, precision)
    return float(line.rsplit("pass ", 1)[1].split()[0])


def test_the_products_of_attention_are_counted_with_dropout_and_without():
    counts = [
        sum(count_flops(model_of(attention_probs_dropout_prob=share), INPUTS)["Global"].values())
        for share in (0.0, 0.1)
    ]
    assert counts[0] == counts[1]


OWN = """from models.baselines.lf_dnn import LFDNN

class Net(LFDNN):
    def forward(self, visual, audio, text):
        return sum(super(Net, self).forward(visual, audio, text) for _ in range(TIMES))

TIMES = {}
"""


def own_model(path, times):
    path.write_text(OWN.format(times))
    return build(f"{path}:Net", {}, WIDTHS, 1)


@pytest.mark.parametrize("has_encoder", [False, True])
def test_two_models_of_a_users_own_are_counted_each(tmp_path, has_encoder):
    """Also where both have the same name, settings and sizes."""
    totals = []
    for times in (1, 3):
        model = own_model(tmp_path / f"{times}.py", times)
        inputs = [torch.ones(3, 5, width) for width in WIDTHS.values()]
        if has_encoder:
            model, inputs = WithTextEncoder(tiny(), model), INPUTS
        flops = sum(count_flops(model, inputs)["Global"].values())
        totals.append(count_total_flops(model, inputs))
        assert totals[-1] == flops
    assert totals[1] > totals[0]


def test_a_users_own_model_is_not_kept_for_its_flops(tmp_path):
    """Its file may load much, and a study runs it for each training."""
    model = own_model(tmp_path / "own.py", 2)
    assert count_total_flops(model, [torch.ones(3, 5, width) for width in WIDTHS.values()])
    model_class = weakref.ref(type(model))
    del model, sys.modules["model_of_own"]
    gc.collect()
    assert model_class() is None


@pytest.mark.parametrize("name", ["mult", "msaf", "nhfnet"])
def test_the_parts_of_a_model_cost_no_more_than_all_of_it(name):
    """Of mult and msaf, some parts are lists of modules that consist of modules."""
    inputs = [torch.ones(2, 5, width) for width in WIDTHS.values()]
    model = build(name, {}, WIDTHS, 1)
    *parts, whole = [float(n) for n in re.findall(r" ([\d.]+) M", model_table(model, inputs))]
    assert len(parts) == len(list(model.children()))
    assert sum(parts) <= whole + 0.01 * len(parts)
    assert sum(parts) == pytest.approx(whole, rel=0.1)


def test_padding_costs_as_much_as_words():
    """In training, and on a GPU, padding is not skipped."""
    visual, audio, text = INPUTS
    padded = text.clone()
    padded[:, 2:] = 0
    counts = [
        sum(count_flops(model_of(), [visual, audio, one])["Global"].values())
        for one in (text, padded)
    ]
    assert counts[0] == counts[1]


def test_the_memory_with_gradient_checkpointing():
    """One layer alone saves nothing: the backward pass recomputes all of its activations."""
    large = {"hidden_size": 8, "intermediate_size": 60_000}
    assert activations(**large, num_hidden_layers=1, checkpoints=True) == pytest.approx(
        activations(**large, num_hidden_layers=1), rel=0.02
    )
    four = activations(**large, num_hidden_layers=4)
    assert activations(**large, num_hidden_layers=4, checkpoints=True) == pytest.approx(
        four / 4, rel=0.05
    )


def test_the_memory_of_bfloat16():
    large = {"intermediate_size": 60_000}
    assert activations("bfloat16", **large) < 0.9 * activations(**large)
