"""Dropout by keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.layers.dropout import drop, layer_key, scramble, segment_keys
from models.layers.encoder import Encoder
from models.registry import build


def masks(keys, shape=(8, 54, 50), probability=0.4):
    """True where weights are kept, one mask a key."""
    return drop(torch.ones(len(keys), *shape), probability, keys) != 0


def test_scramble_is_the_hash_in_32_bit_arithmetic():
    values = np.random.default_rng(0).integers(2**32, size=1000, dtype=np.uint32)
    expected = values.copy()
    expected ^= expected >> np.uint32(16)
    expected *= np.uint32(0x7FEB352D)
    expected ^= expected >> np.uint32(15)
    expected *= np.uint32(0x846CA68B)
    expected ^= expected >> np.uint32(16)
    hashes = scramble(torch.from_numpy(values.astype(np.int64)))
    np.testing.assert_array_equal(hashes, expected)


@pytest.mark.parametrize("probability", [0.1, 0.4])
def test_the_share_dropped_is_the_probability_and_the_mean_stays(probability):
    keys = torch.arange(200)
    kept = masks(keys, probability=probability).float()
    # Five standard errors of that many draws.
    error = 5 * (probability * (1 - probability) / kept.numel()) ** 0.5
    assert kept.mean().item() == pytest.approx(1 - probability, abs=error)
    weights = drop(torch.ones(200, 8, 54, 50), probability, keys)
    assert weights.mean().item() == pytest.approx(1, abs=error / (1 - probability))
    assert weights.unique().tolist() == pytest.approx([0, 1 / (1 - probability)])


def test_masks_of_keys_heads_queries_and_layers_are_unrelated():
    keys = torch.tensor([7, 8, 2**32 - 1])
    first, second, third = masks(keys).float()
    (next_layer,) = masks(layer_key(keys[:1], 1)).float()
    pairs = [(first, second), (first, third), (first, next_layer)]
    pairs += [(first[0], first[1]), (first[:, 0], first[:, 1]), (first[..., 0], first[..., 1])]
    for a, b in pairs:
        correlation = np.corrcoef(a.flatten(), b.flatten())[0, 1]
        assert abs(correlation) < 5 / a.numel() ** 0.5


def test_every_segment_and_seed_has_its_own_key():
    keys = segment_keys(torch.arange(100_000), 2**32 - 5)
    assert len(keys.unique()) == 100_000
    assert keys.min() >= 0 and keys.max() < 2**32
    assert torch.equal(keys[[7, 3]], segment_keys(torch.tensor([7, 3]), 2**32 - 5))
    assert not torch.isin(segment_keys(torch.arange(10), 123), keys).any()


def test_a_mask_does_not_depend_on_the_batch():
    keys = torch.randint(2**32, (5,))
    assert torch.equal(masks(keys)[3:4], masks(keys[3:4]))


def test_without_keys_pytorchs_generator_decides():
    encoder = Encoder(32, 8, 1, 16, attention_dropout=0.4).train()
    x, outputs = torch.randn(2, 5, 32), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(encoder(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_there_is_no_dropout_in_evaluation():
    model = build("nhfnet", {}, {"visual": 35, "audio": 74, "text": 768}, 1).eval()
    inputs = torch.randn(2, 3, 35), torch.randn(2, 3, 74), torch.randn(2, 4, 768)
    keys = torch.tensor([1, 2])
    with torch.no_grad():
        assert torch.equal(model(*inputs, keys), model(*inputs))
        model.train()
        assert not torch.equal(model(*inputs, keys), model(*inputs, keys + 1))
