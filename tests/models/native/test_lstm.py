"""The C++ recurrence of LSTMs: PyTorch's numbers, and PyTorch's own code where needed."""

from __future__ import annotations

import ctypes
import os
import pickle
import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn

from models.layers.lstm import LSTM
from models.native import accelerate, compiler
from models.native import lstm as module
from models.native.encoder import NativeEncoder
from models.native.library import library as encoder_library
from models.native.lstm import NativeLSTM, library
from models.registry import build
from tests.models.native.calls import recorded_calls

WIDTHS = {"visual": 5, "audio": 6, "text": 7}


@pytest.fixture(scope="module", autouse=True)
def compiled():
    code = library()
    if "no C++ compiler" in str(code):
        pytest.skip(code)
    assert not isinstance(code, str), code
    return code


@pytest.fixture
def calls(compiled, monkeypatch):
    """The names of the compiled functions that were called."""
    return recorded_calls(monkeypatch, compiled, "lstm_forward", "lstm_backward")


def lstm(inputs=6, hidden=32):
    torch.manual_seed(0)
    return LSTM(inputs, hidden, batch_first=True)


def outcomes(lstm, x, *states):
    """All outputs, and the gradients of the input and the weights."""
    x = x.clone().requires_grad_()
    out, (last, cell) = lstm(x, *states)
    loss = out.sin().sum() + last.cos().sum() + cell.square().sum()
    return [out, last, cell, *torch.autograd.grad(loss, [x, *lstm.parameters()])]


def assert_same(found, expected, limit=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        scale = max([1, *theirs.abs().flatten().tolist()])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=limit * scale)


@pytest.mark.parametrize("batch", [1, 3, 8, 21])
@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize("hidden", [32, 128])
def test_it_is_pytorchs(calls, batch, steps, hidden):
    plain, x = lstm(hidden=hidden), torch.randn(batch, steps, 6)
    assert_same(outcomes(accelerate(deepcopy(plain)), x), outcomes(plain, x))
    assert calls == ["lstm_forward", "lstm_backward"]


def test_inputs_and_gradients_may_have_any_memory_layout(calls):
    plain, x = lstm(), torch.randn(6, 3, 2).transpose(0, 2)
    native, grad = accelerate(deepcopy(plain)), torch.randn(32, 3, 2).transpose(0, 2)
    results = [
        torch.autograd.grad(net(x)[0], list(net.parameters()), grad) for net in (native, plain)
    ]
    assert_same(*results)
    assert calls


def test_hooks_on_saved_tensors_may_return_any_memory_layout(calls):
    plain, x = lstm(), torch.randn(5, 3, 6)

    def elsewhere(saved):
        memory = torch.empty(2 * saved.numel() + 1, dtype=saved.dtype)
        return memory[1::2].view(saved.shape).copy_(saved)

    expected = outcomes(plain, x)
    with torch.autograd.graph.saved_tensors_hooks(elsewhere, lambda saved: saved):
        found = outcomes(accelerate(plain), x)
    assert_same(found, expected)
    assert calls == ["lstm_forward", "lstm_backward"]


def test_inputs_of_inference_mode_are_left_to_pytorch_where_weights_learn(calls):
    plain = lstm()
    with torch.inference_mode():
        x = torch.randn(5, 3, 6)
    results = []
    for net in (plain, accelerate(deepcopy(plain))):
        out = net(x)[0]
        results.append([out, *torch.autograd.grad(out.sin().sum(), list(net.parameters()))])
    assert_same(*results)
    assert not calls
    with torch.no_grad():
        assert_same([accelerate(plain)(x)[0]], results[0][:1])
    assert calls == ["lstm_forward"]


def test_gradients_of_many_sums_at_once():
    plain, x, several = lstm(), torch.randn(5, 3, 6), torch.randn(4, 5, 3, 32)
    results = [
        torch.autograd.grad(net(x)[0], list(net.parameters()), several, is_grads_batched=True)
        for net in (plain, accelerate(deepcopy(plain)))
    ]
    assert_same(*results)


def test_gradients_are_of_full_precision_within_autocast():
    plain, x = lstm(), torch.randn(5, 3, 6)
    results = []
    for net in (plain, accelerate(deepcopy(plain))):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            net(leaf)[0].sum().backward()
        results.append([leaf.grad])
    assert_same(*results)


@pytest.mark.parametrize("scale", [1e-20, 1e-9, 1e-4, 0.02, 0.2, 0.5, 1, 5, 50])
def test_small_numbers_are_as_precise_as_large_ones(calls, scale):
    plain = lstm(inputs=1)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
        plain.weight_ih_l0[64:96].normal_()  # of the gate whose function is tanh
        x = scale * torch.randn(2, 1, 1)
        gate = (x.double() @ plain.weight_ih_l0[64:96].double().t()).tanh()
        out, (_, cell) = accelerate(deepcopy(plain))(x)
    torch.testing.assert_close(cell[0].double(), gate[:, 0] / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(out.double(), (gate / 2).tanh() / 2, rtol=1e-6, atol=0)
    assert calls == ["lstm_forward"]


def test_saturated_gates_and_nan(calls):
    plain = lstm()
    gpu_nan = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    for size in (30, 1e4, torch.inf, torch.nan, gpu_nan):
        x = torch.zeros(2, 3, 6) + size
        with torch.no_grad():
            found, expected = accelerate(deepcopy(plain))(x)[0], plain(x)[0]
        torch.testing.assert_close(found, expected, equal_nan=True)
    assert calls


def test_the_lstms_of_a_model_are_replaced_and_the_parameters_stay(calls):
    model = build("nhfnet", {}, WIDTHS, 1).eval()
    parameters = dict(model.named_parameters())
    x = [torch.randn(3, 4, width) for width in WIDTHS.values()]
    expected = model(*x)
    accelerate(model)
    assert [type(one) for one in model.text_lstms] == [NativeLSTM, NativeLSTM]
    assert all(parameters[name] is value for name, value in model.named_parameters())
    torch.testing.assert_close(model(*x), expected, atol=1e-5, rtol=1e-5)
    assert calls == ["lstm_forward"] * 2


def test_the_environment_switches_it_off(monkeypatch):
    monkeypatch.setenv("NHFNET_NATIVE", "0")
    assert type(accelerate(lstm())) is LSTM


@pytest.mark.parametrize(
    "other",
    [
        LSTM(6, 24, batch_first=True),
        LSTM(6, 32, 2, batch_first=True),
        LSTM(6, 32, batch_first=True, bidirectional=True),
        LSTM(6, 64, batch_first=True, proj_size=32),
        LSTM(6, 32, batch_first=True, bias=False),
        LSTM(6, 32),
        nn.LSTM(6, 32, batch_first=True),
    ],
    ids=str,
)
def test_another_kind_of_lstm_is_left_as_it_is(other):
    assert accelerate(other) is other


def test_on_a_gpu_it_stays_as_it_is():
    assert type(accelerate(lstm(), device=torch.device("cuda"))) is LSTM


@pytest.mark.parametrize(
    "kind", ["states", "double", "one segment", "no segments", "a global hook"]
)
def test_what_the_code_cannot_do_is_left_to_pytorch(calls, kind):
    plain, x, states = lstm(), torch.randn(2, 3, 6), []
    if kind == "states":
        states = [(torch.randn(1, 2, 32), torch.randn(1, 2, 32))]
    elif kind == "double":
        plain, x = plain.double(), x.double()
    elif kind == "one segment":
        x = x[0]
    elif kind == "no segments":
        x = x[:0]
    native, seen = accelerate(deepcopy(plain)), []
    if kind == "a global hook":
        handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
        native(x)
        handle.remove()
        assert seen
    else:
        assert_same(outcomes(native, x, *states), outcomes(plain, x, *states))
    assert not calls


@pytest.mark.parametrize("change", ["input", "weight", "precision"])
def test_what_does_not_fit_is_refused_and_never_read(calls, change):
    native, x = accelerate(lstm()), torch.randn(2, 3, 6)
    if change == "input":
        x = x[..., 1:]
    elif change == "weight":
        native.weight_hh_l0 = nn.Parameter(torch.zeros(128, 32).double())
    else:
        x = x.bfloat16()
    with pytest.raises((RuntimeError, ValueError)):
        native(x)
    assert not calls


def test_a_weight_of_another_shape_is_never_read(calls):
    native = accelerate(lstm())
    native.weight_hh_l0 = nn.Parameter(torch.zeros(256, 32))  # oneDNN's reads a part of it
    native(torch.randn(2, 3, 6))
    assert not calls


def test_it_keeps_full_precision_under_autocast(calls):
    plain, x = lstm(), torch.randn(2, 3, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = accelerate(deepcopy(plain))(x)[0]
        assert_same([found], [plain(x)[0]])
    assert found.dtype == torch.float32
    assert calls


@pytest.mark.parametrize("calls_of_it", [1, 2])
def test_gradients_of_gradients(calls, calls_of_it):
    plain, x, results = lstm(inputs=32), torch.randn(2, 3, 32), []
    for net in (accelerate(deepcopy(plain)), plain):
        out = y = x.clone().requires_grad_()
        for _ in range(calls_of_it):  # the second's input depends on its weights
            out, (_, cell) = net(out)
        sources = [y, net.weight_hh_l0]
        grads = torch.autograd.grad(out.sin().sum() + cell.sum(), sources, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in grads), sources))
    assert_same(*results, 1e-4)
    assert calls[0] == "lstm_forward"


def test_only_wanted_gradients_are_made_and_a_pass_can_be_repeated(calls):
    native = accelerate(lstm())
    native.weight_hh_l0.requires_grad_(False)
    out = native(torch.randn(2, 3, 6))[0].sum()
    wanted = [native.weight_ih_l0, native.bias_hh_l0]
    first, again = (torch.autograd.grad(out, wanted, retain_graph=True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_weights_and_gradients_may_begin_anywhere_in_memory(calls):
    plain, x = lstm(), torch.randn(9, 3, 6)
    native = accelerate(deepcopy(plain))
    for parameter in native.parameters():
        moved = torch.empty(parameter.numel() + 1)[1:].view(parameter.shape)
        parameter.data = moved.copy_(parameter.detach())
    grad = torch.randn(9 * 3 * 32 + 1)[1:].view(9, 3, 32)
    results = [
        torch.autograd.grad(net(x)[0], list(net.parameters()), grad) for net in (native, plain)
    ]
    assert_same(*results)
    assert calls


def test_the_sums_do_not_depend_on_the_number_of_threads():
    x, found = torch.randn(37, 5, 6), []
    for threads in (1, 2, 3, 8, 2**64):
        found.append(outcomes(accelerate(lstm(), threads=threads), x))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(threads):
    with pytest.raises(ValueError, match=f"threads is {threads}, expected at least 1"):
        accelerate(lstm(), threads=threads)


def test_copies_and_pickles_work_as_the_original(calls):
    native, x = accelerate(lstm()), torch.randn(2, 3, 6)
    for copy in (deepcopy(native), pickle.loads(pickle.dumps(native))):
        calls.clear()
        assert torch.equal(copy(x)[0], native(x)[0])
        assert len(calls) == 2
        with torch.no_grad():
            copy.weight_hh_l0.zero_()
        assert not torch.equal(copy(x)[0], native(x)[0])


def test_weights_of_a_functional_call_are_the_ones_that_count(calls):
    plain, x = lstm(), torch.randn(2, 3, 6)
    doubled = {name: 2 * value for name, value in plain.named_parameters()}
    found, expected = (
        torch.func.functional_call(one, doubled, x)[0]
        for one in (accelerate(deepcopy(plain)), plain)
    )
    assert_same([found], [expected])
    assert calls


@pytest.mark.parametrize("flags", [["-mno-avx512f"], ["-mno-avx"]])
def test_builds_for_lesser_processors_agree(monkeypatch, tmp_path, flags):
    """Those flags come after -march=native, and make vectors of 8 and of 4 lanes."""
    if os.uname().machine != "x86_64":
        pytest.skip("these flags are for x86-64")
    x = torch.randn(11, 5, 6)
    expected = outcomes(accelerate(lstm()), x)
    monkeypatch.setattr(compiler, "_PROCESSOR_FLAGS", (("-march=native", *flags),))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.cache_clear()
    native = accelerate(lstm())
    assert type(native) is NativeLSTM
    assert_same(outcomes(native, x), expected, 1e-6)
    library.cache_clear()


@pytest.mark.parametrize("wrong", ["numbers", "gradients", "library"])
def test_a_library_that_is_another_is_refused(compiled, wrong):
    class Wrong:
        _name = "another"

    code = Wrong()
    if wrong != "library":
        code.lstm_forward, code.lstm_backward = compiled.lstm_forward, compiled.lstm_backward
        name = "lstm_forward" if wrong == "numbers" else "lstm_backward"
        setattr(code, name, fill_with_zeros)
    with pytest.raises(compiler.Unavailable, match=r"wrong numbers|no LSTM"):
        module._make_tested(code)


def fill_with_zeros(reference):
    call = reference._obj
    size = call.batch * call.steps * call.hidden * ctypes.sizeof(ctypes.c_float)
    if call.out:
        ctypes.memset(call.out, 0, size)
    else:
        ctypes.memset(call.grad_sums, 0, 4 * size)


def test_without_a_compiler_pytorch_does_it_and_one_warning_says_so(monkeypatch, tmp_path, recwarn):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    warnings.simplefilter("default")
    for made in (library, encoder_library):
        made.cache_clear()
    model = accelerate(build("nhfnet", {}, WIDTHS, 1))
    assert not any(type(one) in (NativeLSTM, NativeEncoder) for one in model.modules())
    assert [str(one.message).partition(";")[0] for one in recwarn] == [
        "there is no C++ compiler no-such-compiler"
    ]
    for made in (library, encoder_library):
        made.cache_clear()
