"""Additions in MulT's encoders: the mask, and dropouts in training."""

from __future__ import annotations

import pytest
import torch

from models.layers.encoder import Encoder, Extras
from models.layers.positions import embed, sinusoids


def encoder(layers=1, attention_dropout=0.0, **extras):
    torch.manual_seed(0)
    return Encoder(8, 2, layers, 16, attention_dropout, Extras(**extras))


@pytest.mark.parametrize(("queries", "attended"), [(6, 6), (3, 6), (6, 3)])
def test_a_masked_query_sees_no_further_than_the_lengths_differ(queries, attended):
    masked = encoder(is_masked=True).double()
    x = torch.randn(1, queries, 8, dtype=torch.float64)
    memory = torch.randn(1, attended, 8, dtype=torch.float64, requires_grad=True)
    output = masked(x, memory)
    for i in range(queries):
        (grad,) = torch.autograd.grad(output[0, i].sin().sum(), memory, retain_graph=True)
        seen = [j for j in range(attended) if grad[0, j].abs().sum() > 0]
        assert seen == [j for j in range(attended) if j - i <= abs(queries - attended)]


def test_masked_self_attention_looks_back_only():
    masked, x = encoder(layers=3, is_masked=True), torch.randn(2, 5, 8)
    changed = torch.cat([x[:, :3], torch.randn(2, 2, 8)], dim=1)
    assert torch.equal(masked(x)[:, :3], masked(changed)[:, :3])
    assert not torch.equal(masked(x)[:, 3:], masked(changed)[:, 3:])
    torch.testing.assert_close(masked(x, last_tokens_only=2), masked(x)[:, -2:])


def test_dropout_before_the_residual_sums_can_leave_the_input_alone():
    full = encoder(layers=2, residual_dropout=1.0).train()
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(full(x), full.layer_norm(embed(x)))


def test_dropout_after_the_relu_is_that_of_the_hidden_channels():
    full, x = encoder(hidden_dropout=1.0).train(), torch.randn(2, 5, 8)
    expected = full(x)
    with torch.no_grad():
        full.layers[0].fc1.weight.normal_()
    assert torch.equal(full(x), expected)
    assert not torch.equal(full.eval()(x), expected)


def test_dropout_of_the_embedded_inputs_takes_keys_and_values_apart():
    half, calls = encoder(embedding_dropout=0.5).train(), []
    half.layers[0].self_attn.register_forward_hook(lambda _, inputs, __: calls.append(inputs))
    x, memory = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    half(x, memory)
    half.eval()(x, memory)
    (_, keys, _, values, _), (_, memory_alone, _, no_values, _) = calls
    assert not torch.equal(keys, values)
    assert no_values is None
    torch.testing.assert_close(memory_alone, half.layers[0].layer_norms[0](embed(memory)))


@pytest.mark.parametrize(
    "extras", [{}, *({f"{name}_dropout": 0.5} for name in ("embedding", "hidden", "residual"))]
)
def test_there_is_dropout_in_training_alone(extras):
    model, x, memory = encoder(**extras), torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    first, second = (model.train()(x, memory) for _ in range(2))
    assert torch.equal(first, second) == (not extras)
    assert torch.equal(model.eval()(x, memory), encoder().eval()(x, memory))


@pytest.mark.filterwarnings("ignore")  # tracing warns of itself, and of the width
def test_positions_follow_the_length_in_a_trace_and_leave_nothing_of_it_in_the_cache():
    sinusoids.cache_clear()
    traced = torch.jit.trace(embed, torch.randn(2, 5, 8), check_trace=False)
    assert sinusoids.cache_info().currsize == 0
    x = torch.randn(3, 9, 8)
    torch.testing.assert_close(traced(x), embed(x))
