"""What is said of bfloat16, by how long a layer takes."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from data.text import precision
from data.text.precision import compare_with_float32
from tests.data.text.test_bert import random_model
from tests.system.test_bert import bert_of

SECONDS = {torch.bfloat16: 0.02, torch.float32: 0.05}


class Slow(nn.Module):
    """A layer that takes its time, by a clock of its own."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds, self.calls = clock, seconds, []

    def __deepcopy__(self, memo):
        copy = Slow(self.clock, self.seconds)
        copy.calls = self.calls
        return copy

    def forward(self, hidden, mask):
        assert hidden.dtype == mask.dtype
        self.calls.append((hidden.dtype, tuple(hidden.shape)))
        self.clock[0] += self.seconds[hidden.dtype]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_both_precisions_are_measured_in_turn_on_a_whole_batch(clock):
    layer = Slow(clock, SECONDS)
    line = compare_with_float32(layer, torch.zeros(32, 50, 8, dtype=torch.bfloat16))
    both = [(dtype, (32, 50, 8)) for dtype in SECONDS]
    assert layer.calls == both * (1 + precision._ROUNDS)  # the first ones warm up
    assert line == (
        "BERT in bfloat16 is 2.5 times as fast as in float32 here: a layer takes 20 ms, and 50 ms "
        "in float32."
    )


@pytest.mark.parametrize("bfloat16", [0.046, 0.05, 0.2])
def test_where_bfloat16_is_not_faster_the_line_says_what_to_do(clock, bfloat16):
    layer = Slow(clock, {**SECONDS, torch.bfloat16: bfloat16})
    line = compare_with_float32(layer, torch.zeros(2, 3, 4, dtype=torch.bfloat16))
    assert "is not faster here" in line
    assert f"takes {1000 * bfloat16:.2g} ms, and 50 ms in float32" in line
    assert "--bert_precision float32" in line
    assert "\n" not in line


def test_a_layer_of_a_bert_can_be_measured():
    model = bert_of(random_model(), torch.bfloat16)
    batch = torch.randn(2, 20, 16, dtype=torch.bfloat16)
    assert "bfloat16" in compare_with_float32(model.parts[-1], batch)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
