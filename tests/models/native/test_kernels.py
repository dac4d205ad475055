"""The encoder in Triton gives the formula's numbers: interpreted on a CPU, compiled on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from models.layers.encoder import Encoder
from models.native import gpu, library
from models.native.encoder import NativeEncoder, accelerate
from models.native.encoding import Request, encode
from models.native.gpu import Form, Kernels, unsuitable_reason
from models.native.packing import share_weights
from models.native.weights import plain_weights
from tests.cuda import DEVICES, needs_cuda

pytest.importorskip("triton")

KERNELS = "models.native.kernels"
# Where there is a GPU, nothing is interpreted.
KERNEL_DEVICES = DEVICES[1:] if torch.cuda.is_available() else DEVICES


def kernels(encoder):
    """Return the kernels for an encoder; a CPU interprets them (tests/__init__.py)."""
    layer = encoder.layers[0]
    return Kernels(layer.fc1.in_features, layer.self_attn.heads, layer.fc1.out_features)


def make_encoder(device, width=16, heads=4, feedforward=32, dropout=0.4):
    torch.manual_seed(0)
    encoder = Encoder(width, heads, 2, feedforward, dropout)
    for parameter in encoder.parameters():  # initial zeros and ones could hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder.to(device)


def make_tokens(batch, count, width, device):
    x = torch.randn(batch, count, width)
    x[:, : count // 3, 0] = 0  # padding has no positions
    return x.to(device).requires_grad_()


def outcomes(encode, sources):
    out = encode()
    return [out, *torch.autograd.grad(out.sin().sum(), sources)]


CASES = {
    "itself": (19, None, None, False),
    "itself, some tokens": (20, None, 4, False),
    "memory": (3, 19, None, False),
    "memory, dropout": (19, 5, None, True),
    "memory, dropout, some tokens": (17, 18, 2, True),
    "a token": (1, 1, 1, True),
}


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs_and_gradients_are_those_of_the_formula(case, device):
    tokens, attended, last, is_dropped = case
    encoder = make_encoder(device)
    x = make_tokens(2, tokens, 16, device)
    memory = None if attended is None else make_tokens(2, attended, 16, device)
    keys = torch.tensor([2**31, 2**32 - 1], device=device) if is_dropped else None
    request, compiled = Request(encoder, last, keys), kernels(encoder)
    weights = plain_weights(encoder, compiled.weights, x.device)
    sources = [v for v in (x, memory, *encoder.parameters()) if v is not None]
    found = outcomes(lambda: encode(compiled, request, x, memory, weights), sources)
    expected = outcomes(lambda: request.formula(x, memory), sources)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(
            ours, theirs, atol=2e-5 * theirs.detach().abs().max().item(), rtol=0
        )


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("sizes", [(32, 4, 128), (64, 4, 96)])
def test_other_sizes(sizes, device):
    encoder = make_encoder(device, *sizes)
    x, compiled = make_tokens(2, 5, sizes[0], device), kernels(encoder)
    weights = plain_weights(encoder, compiled.weights, x.device)
    request = Request(encoder, None, None)
    found = outcomes(lambda: encode(compiled, request, x, None, weights), [x, *weights])
    expected = outcomes(lambda: request.formula(x, None), [x, *weights])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(
            ours, theirs, atol=2e-5 * theirs.detach().abs().max().item(), rtol=0
        )


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_gradients_of_many_segments_are_added_up_part_by_part(device, monkeypatch):
    encoder, results = make_encoder(device), []
    x, compiled = make_tokens(3, 4, 16, device), kernels(encoder)
    weights = plain_weights(encoder, compiled.weights, x.device)

    def compiled_call():
        return encode(compiled, Request(encoder, None, None), x, None, weights)

    for at_once in (2, 3):
        monkeypatch.setattr(gpu, "_SEGMENTS_AT_ONCE", at_once)
        results.append(outcomes(compiled_call, [x, *weights]))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_calls_of_an_encoder_share_its_weights_until_they_change(device):
    encoder = make_encoder(device)
    x, compiled = make_tokens(2, 4, 16, device), kernels(encoder)
    weights = plain_weights(encoder, compiled.weights, x.device)
    request = Request(encoder, None, None)

    def twice(call):
        return call(call(x))

    def compiled_call(y):
        return encode(compiled, request, y, None, weights)

    class Twice(torch.nn.Module):
        def forward(self, call):
            return twice(call)

    share_weights(model := Twice())
    for _ in range(2):  # the second time after a step
        found = outcomes(lambda: model(compiled_call), weights)
        expected = outcomes(lambda: twice(lambda y: request.formula(y, None)), weights)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(
                ours, theirs, atol=5e-5 * theirs.detach().abs().max().item(), rtol=0
            )
        with torch.no_grad():
            for weight in weights:
                weight.mul_(1.1)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_gradients_of_gradients(device):
    encoder = make_encoder(device)
    x, compiled = make_tokens(1, 3, 16, device), kernels(encoder)
    weights = plain_weights(encoder, compiled.weights, x.device)
    request, results = Request(encoder, None, None), []
    for out in (encode(compiled, request, x, None, weights), request.formula(x, None)):
        (grad,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), [x, encoder.layers[0].fc1.weight]))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_nan_stays_nan(device):
    encoder = make_encoder(device, dropout=0.0)
    with torch.no_grad():
        encoder.layers[0].fc1.weight[3, 4] = torch.nan
    x, compiled = make_tokens(1, 2, 16, device), kernels(encoder)
    weights = plain_weights(encoder, compiled.weights, x.device)
    request = Request(encoder, None, None)
    found = outcomes(lambda: encode(compiled, request, x, None, weights), [x, *weights])
    expected = outcomes(lambda: request.formula(x, None), [x, *weights])
    assert [v.isnan().any() for v in found] == [v.isnan().any() for v in expected]


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_a_variance_beyond_float32_gives_nan(device):
    encoder, x = make_encoder(device, dropout=0.0), make_tokens(2, 5, 16, device)
    x.data[0, 2] *= 1e25
    compiled, request = kernels(encoder), Request(encoder, None, None)
    weights = plain_weights(encoder, compiled.weights, x.device)
    found, expected = encode(compiled, request, x, None, weights), request.formula(x, None)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, equal_nan=True)
    assert expected[0].isnan().all()


@pytest.mark.parametrize("sizes", [(24, 8, 128), (32, 5, 128), (32, 8, 100), (128, 8, 128)])
def test_sizes_that_the_kernels_do_not_support(sizes):
    assert "kernels is not for width" in unsuitable_reason(*sizes, torch.device("cpu"), FORM)


@needs_cuda
def test_long_sequences_are_left_to_the_formula():
    encoder = accelerate(make_encoder("cuda", dropout=0.0), device=torch.device("cuda"))
    assert type(encoder) is NativeEncoder
    x = make_tokens(2, 65, 16, "cuda")
    assert torch.equal(encoder(x), encoder.formula(x, None, None, None))
    assert not torch.equal(encoder(x[:, 1:]), encoder.formula(x[:, 1:], None, None, None))


FORM = Form(16, None, is_dropped=False, learns=False)


@pytest.mark.parametrize(
    "form", [FORM, Form(16, 32, is_dropped=True, learns=True), Form(32, 16, False, True)]
)
def test_each_form_of_call_is_tested_before_its_first_use(monkeypatch, form):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(library, "_tested", {})
    forms, forward = [], Kernels.forward

    def fails_in_small_blocks(self, request, x, memory, packed, learns):
        forms.append(Form.of(x, memory, request.dropout_keys))
        if forms[-1].tokens < 32:
            raise RuntimeError("no such block")
        return forward(self, request, x, memory, packed, learns)

    monkeypatch.setattr(Kernels, "forward", fails_in_small_blocks)
    if form.tokens < 32:
        with pytest.warns(UserWarning, match="no encoder in Triton, .*no such block"):
            assert isinstance(library.kernels(16, 4, 32, device, form), str)
    else:
        assert isinstance(library.kernels(16, 4, 32, device, form), Kernels)
    within_function = form._replace(learns=False)  # an autograd.Function
    assert forms == ([form] if form.tokens < 32 else [form, within_function])


COMPILED_FOR_A_GPU = """
import sys
import torch, triton
from triton.backends.compiler import GPUTarget
from models.layers.encoder import Encoder
from models.native.encoding import Request
from models.native.gpu import Kernels

class Driver:  # of a GPU that can only be compiled for
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Driver())
request = Request(Encoder(16, 4, 2, 32, attention_dropout=0.4), None, None)
Kernels(16, 4, 32).compile(request, torch.zeros(2, 16, 16), None, learns=False)
"""


def test_the_kernels_of_a_call_compile_for_a_gpu(tmp_path):
    """Without the interpreter, and with no GPU needed: Triton brings the compilers."""
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", COMPILED_FOR_A_GPU],
        env=os.environ | environment,
        cwd=Path(__file__).parents[3],
        check=True,
    )
    made = Counter(path.stem for path in tmp_path.glob("*/*.cubin"))
    assert made == {"forward": 3, "attend": 1}  # the first, a middle and the last layer's end


@needs_cuda
def test_calls_compile_nothing_after_the_first_look(monkeypatch):
    import triton

    device, made = torch.device("cuda"), []
    encoder = make_encoder(device, 32, 4, 64)
    form = Form(16, 16, is_dropped=True, learns=True)
    compiled = library.kernels(32, 4, 64, torch.device("cuda", 0), form)
    assert isinstance(compiled, Kernels)
    hook = lambda **description: made.append(description["repr"])  # noqa: E731
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", hook)
    x, memory = (make_tokens(5, n, 32, device) for n in (16, 9))
    request = Request(encoder, None, torch.arange(5, device=device))
    weights = plain_weights(encoder, compiled.weights, x.device)
    outcomes(lambda: encode(compiled, request, x, memory, weights), [x, memory, *weights])
    assert made == []


def test_calls_of_more_tokens_are_not_tested(recwarn):
    form = Form(128, None, is_dropped=False, learns=False)
    assert "up to 64 tokens" in library.kernels(32, 8, 32, torch.device("cpu"), form)
    assert not recwarn


@pytest.mark.parametrize("fault", ["none", "no Triton", "wrong numbers"])
def test_kernels_are_tested_before_their_first_use(monkeypatch, fault):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(library, "_tested", {})
    if fault == "none":
        assert isinstance(library.kernels(16, 4, 32, device, FORM), Kernels)
        return
    expected = fault
    if fault == "no Triton":
        monkeypatch.setitem(sys.modules, KERNELS, None)
        monkeypatch.delattr(KERNELS, raising=False)
        expected = "needs Triton"
    else:
        forward = Kernels.forward
        monkeypatch.setattr(
            Kernels, "forward", lambda *args: (1.01 * forward(*args)[0], forward(*args)[1])
        )
    with pytest.warns(UserWarning, match=f"no encoder in Triton, running without it.*{expected}"):
        assert isinstance(library.kernels(16, 4, 32, device, FORM), str)


def test_sizes_without_kernels_bring_no_warning(recwarn):
    assert "not for width 24" in library.kernels(24, 8, 32, torch.device("cpu"), FORM)
    assert not recwarn
