"""The eager baseline computes NHFNet, and the comparison runs."""

from __future__ import annotations

import json
import shlex
from functools import partial

import pytest
import torch

from benchmarks import evaluate, record, sides, train
from benchmarks.eager import EagerNHFNet
from benchmarks.sides import new_model
from system.processes import SINGLE_PROCESS
from utils.run_config import RunConfig
from utils.running import setup


def test_the_eager_model_is_nhfnet():
    model, eager = new_model().eval(), EagerNHFNet().eval()
    eager.load_state_dict(model.state_dict())
    inputs = [torch.randn(3, *shape) for shape in ((7, 35), (9, 74), (5, 768))]
    inputs[0][:, :2] = 0
    torch.testing.assert_close(eager(*inputs), model(*inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_batches_are_loaded_as_the_program_does(monkeypatch, tmp_path, device):
    monkeypatch.setattr(setup, "pick_device", torch.device)
    setting = sides.Setting(tmp_path, 16, torch.device(device), "float32")
    assert setting.options == setup.make_options(
        RunConfig(device=device, verbose=False), SINGLE_PROCESS
    )
    assert setting.options.num_workers == (4 if "cuda" in device else 0)


@pytest.mark.parametrize("benchmark", [train, evaluate])
def test_a_comparison_in_miniature(tmp_path, monkeypatch, capsys, benchmark):
    monkeypatch.setattr(sides, "run_alone", lambda work, setting: (work(setting), 100.0))
    path = tmp_path / "record.json"
    options = ["--cases", "9/7@2x1", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", [benchmark.__file__, *options, "--json", str(path)])
    measure = partial(sides.measure, benchmark.eager, benchmark.program)
    record.main(benchmark.__doc__, sides.COLUMNS, sides.add_arguments, measure)
    written = json.loads(path.read_text())
    assert written["command"] == shlex.join(["python", "-m", benchmark.__name__, *options])
    (row,) = written["rows"]
    assert min(row["eager_ms"], row["plain_ms"], row["native_ms"]) > 0
    assert f"| {row['native_ms']:.1f} ms, 100 MB |" in capsys.readouterr().out
