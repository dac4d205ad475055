"""LF-DNN against the numbers of MMSA's code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.baselines.lf_dnn import LFDNN
from models.checkpoint import read_checkpoint
from models.registry import build, restore
from tests.golden import GOLDEN

WIDTHS = {"visual": 35, "audio": 74, "text": 768}
INPUTS = ("visual", "audio", "bert")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "lf_dnn.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture
def model(golden, tmp_path):
    """The golden weights, loaded from a file with the published names."""
    weights = {
        name.removeprefix("weights/"): value
        for name, value in golden.items()
        if name.startswith("weights/")
    }
    torch.save({"model_state_dict": weights}, tmp_path / "lf_dnn.pth")
    name, model = restore(read_checkpoint(tmp_path / "lf_dnn.pth"), "lf_dnn")
    assert name == "lf_dnn"
    return model


@pytest.mark.parametrize("kind", ["aligned", "unaligned"])
def test_outputs_are_mmsas(model, golden, kind):
    with torch.no_grad():
        output = model(*(golden[f"{kind}_{name}"] for name in INPUTS))
    torch.testing.assert_close(output, golden[f"{kind}_output"], atol=1e-5, rtol=0)


def test_training_follows_mmsas_trace(model, golden):
    """Two steps without dropout, BatchNorm by its running statistics, as the trace was made."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(2):
        output = model(*(golden[f"train_{name}_{step}"] for name in INPUTS))
        loss = torch.nn.functional.mse_loss(output, golden[f"train_label_{step}"])
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            check_gradient_norms(model, golden)
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-3)


def check_gradient_norms(model, golden):
    expected = {
        name.removeprefix("gradnorm/"): value
        for name, value in golden.items()
        if name.startswith("gradnorm/")
    }
    expected = LFDNN.PUBLISHED.rename(expected)
    found = {name: parameter.grad.norm() for name, parameter in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, norm in found.items():
        assert norm.item() == pytest.approx(expected[name].item(), rel=1e-3), name


def test_parameter_count_is_mmsas():
    model = build("lf_dnn", {}, WIDTHS, 1)
    assert sum(parameter.numel() for parameter in model.parameters()) == 572_283


def test_a_batch_of_one_segment_trains_by_the_running_statistics():
    torch.manual_seed(0)
    model = build("lf_dnn", {"dropout": 0.0}, WIDTHS, 2)
    inputs = [torch.randn(1, 4, width) for width in WIDTHS.values()]
    alone = model.train()(*inputs)
    assert alone.shape == (1, 2)
    assert torch.equal(alone, model.eval()(*inputs))
    assert (model.audio_subnet.norm.running_mean == 0).all()
