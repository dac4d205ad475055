"""The baselines against the numbers of the published models' code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.checkpoint import read_checkpoint
from models.registry import build, find_class, restore
from system.devices import pick_device
from system.errors import InputError
from tests.cuda import DEVICES, on_cuda
from tests.golden import GOLDEN

WIDTHS = {"visual": 35, "audio": 74, "text": 768}
INPUTS = ("visual", "audio", "bert")
PARAMETERS = {
    "mult": 1_087_771,
    "msaf": 689_337,
    "lf_dnn": 572_283,
    "lmf": 508_475,
    "tfn": 5_042_539,
}
# TFN's numbers were made with a small one.
SMALL = {"audio_hidden": 8, "visual_hidden": 12, "text_hidden": 24, "text_out": 16}
SETTINGS = {"tfn": {**SMALL, "fusion_hidden": 10}}


@pytest.fixture(scope="module", params=PARAMETERS)
def golden(request):
    """A model's name, and its golden numbers."""
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        return request.param, {name: torch.from_numpy(file[name]) for name in file}


def part(numbers, prefix):
    return {
        name.removeprefix(prefix): value
        for name, value in numbers.items()
        if name.startswith(prefix)
    }


@pytest.fixture(params=DEVICES)
def model(request, golden, tmp_path):
    """The golden weights, loaded from a file with the published names, on each device."""
    name, numbers = golden
    torch.save({"model_state_dict": part(numbers, "weights/")}, tmp_path / "published.pth")
    checkpoint = read_checkpoint(tmp_path / "published.pth")
    stored_name, model = restore(replace(checkpoint, config=SETTINGS.get(name, {})), name)
    assert stored_name == name
    return model if pick_device(request.param).type == "cpu" else on_cuda(model)


def test_a_published_file_without_a_models_name_asks_for_it(golden, tmp_path):
    _, numbers = golden
    torch.save(part(numbers, "weights/"), tmp_path / "published.pth")
    checkpoint = read_checkpoint(tmp_path / "published.pth")
    with pytest.raises(InputError, match=r"does not say which model .*; name their .* --model"):
        restore(checkpoint)


@pytest.mark.parametrize("kind", ["aligned", "unaligned"])
def test_outputs_are_the_published_codes(model, golden, kind):
    _, numbers = golden
    with torch.no_grad():
        output = model(*(numbers[f"{kind}_{name}"] for name in INPUTS))
    torch.testing.assert_close(output, numbers[f"{kind}_output"], atol=1e-5, rtol=0)


def test_training_follows_the_published_codes_trace(model, golden, monkeypatch):
    """Two steps without dropout, BatchNorm by its running statistics, as the trace was made.

    cuDNN's LSTMs learn in training mode only.
    """
    name, numbers = golden
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(2):
        output = model(*(numbers[f"train_{kind}_{step}"] for kind in INPUTS))
        loss = torch.nn.functional.mse_loss(output, numbers[f"train_label_{step}"])
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            check_gradient_norms(name, model, part(numbers, "gradnorm/"))
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, numbers["losses"], rtol=1e-3)


def check_gradient_norms(name, model, norms):
    expected = find_class(name).PUBLISHED.rename(norms)
    actual = {name: parameter.grad.norm() for name, parameter in model.named_parameters()}
    assert actual.keys() == expected.keys()
    for name, norm in actual.items():
        assert norm.item() == pytest.approx(expected[name].item(), rel=1e-3), name


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_the_published_one(name):
    model = build(name, {}, WIDTHS, 1)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
