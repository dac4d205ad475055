"""Precision, compilation and CUDA graphs change how a model runs, but not its results."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.loading.options import LoaderOptions
from data.loading.split import Split
from models.layers.encoder import Encoder
from models.registry import MODELS, build
from system.devices import pick_device
from tests.cuda import needs_cuda
from tests.models.test_text_encoder import TINY, tiny, tiny_pieces
from tests.utils.training.test_trainer import make_trainer
from utils.reports.evaluation import Predictor, evaluate
from utils.running.cuda_graph import CudaGraph
from utils.running.execution import Compiled
from utils.tasks import SENTIMENT

needs_a_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch.compile needs a C++ compiler"
)


def test_bfloat16_predicts_about_the_same(small):
    torch.manual_seed(0)
    split = Split(small / "test")
    model = build("nhfnet", {}, split.widths, 1).eval()
    options = LoaderOptions(torch.device("cpu"), 8, 0, verbose=False)
    exact, mixed = (
        evaluate(Predictor(model, precision, options), split, SENTIMENT, options).predictions
        for precision in ("float32", "bfloat16")
    )
    assert not np.array_equal(mixed, exact)
    np.testing.assert_allclose(mixed, exact, atol=0.05)


def test_bfloat16_trains(small, tmp_path):
    exact, mixed = (
        make_trainer(small, tmp_path / precision, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    exact.run()
    mixed.run()
    assert mixed.epochs[-1].loss != exact.epochs[-1].loss
    assert mixed.epochs[-1].loss == pytest.approx(exact.epochs[-1].loss, rel=0.05)
    assert all(value.dtype == torch.float32 for value in mixed.model.state_dict().values())


@needs_a_compiler
def test_a_compiled_module_gives_the_same():
    """With the real compiler, which takes a while."""
    torch.manual_seed(0)
    encoder = Encoder(width=16, heads=4, layers=1, feedforward=16, attention_dropout=0.4).train()
    x, memory, keys = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randint(2**32, (2,))
    compiled = Compiled(encoder)
    output = compiled(x, memory, None, keys)
    assert compiled._chosen is not encoder
    torch.testing.assert_close(output, encoder(x, memory, None, keys), rtol=1e-4, atol=1e-5)
    output.sum().backward()
    gradient = encoder.layers[0].fc1.weight.grad.clone()
    encoder.zero_grad()
    encoder(x, memory, None, keys).sum().backward()
    torch.testing.assert_close(gradient, encoder.layers[0].fc1.weight.grad, rtol=1e-3, atol=1e-4)


@needs_a_compiler
def test_a_compiled_text_encoder_encodes_the_same():
    """With the real compiler, without gradients; it is one graph with and without gradients."""
    encoder, pieces = tiny(replace(TINY, num_hidden_layers=1)), tiny_pieces()
    assert torch._dynamo.explain(encoder)(pieces).graph_break_count == 0
    compiled = Compiled(encoder.eval())
    with torch.no_grad():
        assert torch._dynamo.explain(encoder)(pieces).graph_break_count == 0
        output = compiled(pieces)
        assert compiled._chosen is not encoder
        torch.testing.assert_close(output, encoder(pieces), rtol=1e-4, atol=1e-5)


def test_where_compiling_fails_the_module_runs_with_one_warning(monkeypatch):
    def fail(*_):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda module, **_: fail)
    linear = torch.nn.Linear(2, 1)
    compiled, x = Compiled(linear), torch.ones(3, 2)
    with pytest.warns(
        UserWarning, match=r"running without it \(RuntimeError: no compiler\)"
    ) as warnings:
        for _ in range(2):
            assert torch.equal(compiled(x), linear(x))
    assert len(warnings) == 1


def test_trying_to_compile_restores_buffers_and_generators(monkeypatch):
    """A resumed training tries again, in its middle, and must not differ for it."""
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    module, x = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout()), torch.rand(8, 3)
    compiled = Compiled(module)
    torch.manual_seed(1)
    first, calls = compiled(x), module[0].num_batches_tracked.item()
    torch.manual_seed(1)
    assert torch.equal(compiled(x), first)
    assert calls == 1


def test_batches_of_another_size_go_to_the_fallback():
    def returning(number):
        return lambda *_: (torch.tensor([number]),)

    graph = CudaGraph(returning(1), returning(2), batch_size=4)
    outputs = [graph(torch.zeros(n, 2))[0].item() for n in (4, 3, 4, 5)]
    assert outputs == [1, 2, 1, 2]


@needs_cuda
@pytest.mark.parametrize(
    ("model", "precision"), [("nhfnet", "bfloat16"), *((name, "float32") for name in MODELS)]
)
def test_training_through_a_cuda_graph_is_training(small, tmp_path, model, precision, monkeypatch):
    """The graph replaces the calls from the fourth whole batch on.

    Models whose dropout draws from PyTorch's generator draw other numbers in a graph.
    """
    losses = {}
    for name, warm_ups in {"captured": 3, "eager": 10**9}.items():
        monkeypatch.setattr("utils.running.cuda_graph._WARM_UPS", warm_ups)
        options = LoaderOptions(pick_device("cuda"), batch_size=10, num_workers=0, verbose=False)
        trainer = make_trainer(
            small,
            tmp_path / name,
            options,
            model,
            epochs=4,
            scheduler="cosine",
            grad_clip=1.0,
            precision=precision,
        )
        trainer.run()
        is_captured = trainer.step._step_alone._graph is not None
        assert is_captured == (name == "captured")
        losses[name] = [epoch.loss for epoch in trainer.epochs]
    limit = 1e-2 if model in ("nhfnet", "text_only") else 0.2
    assert losses["captured"] == pytest.approx(losses["eager"], rel=limit)


@needs_cuda
def test_a_training_saved_on_cuda_resumes_on_the_cpu_and_back(small, tmp_path):
    devices = [pick_device(name) for name in ("cuda", "cpu", "cuda")]
    for epochs, device in enumerate(devices, start=1):
        options = LoaderOptions(device, batch_size=10, num_workers=0, verbose=False)
        trainer = make_trainer(small, tmp_path, options, epochs=epochs, scheduler="plateau")
        if epochs > 1:
            trainer.resume(tmp_path / "last.pth")
        trainer.run()
    assert len(trainer.epochs) == 3
    assert all(np.isfinite(epoch.loss) for epoch in trainer.epochs)


@needs_cuda
def test_cuda_trains_as_the_cpu_does(small, tmp_path):
    """Dropout included: its masks are the same on every device."""
    losses = []
    for device in ("cpu", "cuda"):
        options = LoaderOptions(pick_device(device), batch_size=10, num_workers=0, verbose=False)
        trainer = make_trainer(small, tmp_path / device, options, epochs=2)
        trainer.run()
        losses.append([epoch.loss for epoch in trainer.epochs])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
