"""`accelerate` installs the C++ encoder, which falls back to the formula where needed."""

from __future__ import annotations

import os
import pickle
import signal
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from models.layers.encoder import Encoder, Extras
from models.native import accelerate, packing
from models.native.encoder import NativeEncoder
from models.native.library import library, self_test
from models.registry import build
from tests.models.native.calls import recorded_calls

WIDTHS = {"visual": 5, "audio": 6, "text": 7}


@pytest.fixture(scope="module", autouse=True)
def compiled():
    encoder = library(32, 8, 128)
    if isinstance(encoder, str):
        pytest.skip(encoder)
    return encoder


@pytest.fixture
def calls(compiled, monkeypatch):
    """The names of the compiled functions that were called."""
    return recorded_calls(monkeypatch, compiled, "forward", "backward")


def encoder(dropout=0.0):
    torch.manual_seed(0)
    return Encoder(32, 8, 2, 128, dropout)


def inputs(batch=3):
    return [torch.randn(batch, 4, width) for width in WIDTHS.values()]


def test_every_encoder_of_a_model_is_replaced_and_the_rest_stays(calls):
    model = build("nhfnet", {}, WIDTHS, 1).eval()
    names, parameters = list(model.state_dict()), list(model.parameters())
    x = inputs()
    expected = model(*x)
    assert not calls
    assert accelerate(model) is model
    assert list(model.state_dict()) == names
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model(*x), expected, atol=1e-5, rtol=1e-5)
    assert calls
    assert sum(type(module) is NativeEncoder for module in model.modules()) == 3


def test_the_self_test_draws_nothing_from_the_generator(compiled):
    before = torch.get_rng_state()
    self_test(compiled, 32, 8, 128)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_environment_switches_it_off(monkeypatch):
    monkeypatch.setenv("NHFNET_NATIVE", "0")
    model = encoder()
    assert accelerate(model) is model
    assert type(model) is Encoder


@pytest.mark.parametrize("value", [1e25, -1e37, torch.nan, torch.inf])
def test_a_token_too_large_for_a_norm_gives_nan_as_in_the_formula(calls, value):
    original, x = encoder().eval(), torch.randn(2, 5, 32)
    x[0, 2] *= value
    expected, found = original(x), accelerate(deepcopy(original))(x)
    assert calls
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, equal_nan=True)
    assert expected[0].isnan().all()


@pytest.mark.parametrize("sizes", [(40, 4, 208), (48, 8, 208), (32, 8, 72)])
def test_sizes_that_the_code_does_not_fit_are_told_in_one_line(capsys, sizes):
    width, heads, feedforward = sizes
    for _ in range(2):
        model = Encoder(width, heads, 1, feedforward, 0.0)
        assert accelerate(model) is model
    sizes_text = f"No encoder in C++ for width {width}, {heads} heads, feedforward {feedforward};"
    assert capsys.readouterr().out.count(sizes_text) == 1


def test_where_a_module_has_hooks_the_formula_computes_and_calls_them(calls):
    native, seen = accelerate(encoder()), []
    x = torch.randn(2, 3, 32)
    native(x)
    assert calls
    calls.clear()
    handle = native.layers[1].fc1.register_forward_hook(lambda *_: seen.append("fc1"))
    native(x)
    assert (seen, calls) == (["fc1"], [])
    handle.remove()
    native(x)
    assert calls


def test_a_hook_on_the_encoder_itself_fires_beside_the_compiled_code(calls):
    native, seen = accelerate(encoder()), []
    native.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    native(torch.randn(2, 3, 32))
    assert seen == [(2, 3, 32)]
    assert calls


def test_a_parametrised_module_keeps_its_formula(calls):
    plain = encoder()
    parametrizations.weight_norm(plain.layers[0].fc1)
    native = accelerate(deepcopy(plain))
    x = torch.randn(2, 3, 32)
    torch.testing.assert_close(native(x), plain(x))
    assert not calls


@pytest.mark.parametrize(
    "extras", [Extras(is_masked=True), Extras(hidden_dropout=0.1), Extras(residual_dropout=0.1)]
)
def test_an_encoder_with_extras_is_left_as_it_is(extras):
    model = nn.Sequential(Encoder(32, 8, 1, 128, 0.0, extras), encoder())
    assert [type(module) for module in accelerate(model)] == [Encoder, NativeEncoder]


@pytest.mark.parametrize("change", ["double", "another epsilon", "a forward of its own"])
def test_what_the_compiled_code_cannot_do_is_left_to_the_formula(calls, change):
    native, x = accelerate(encoder()), torch.randn(2, 3, 32)
    if change == "double":
        native, x = native.double(), x.double()
    elif change == "another epsilon":
        native.layers[0].layer_norms[0].eps = 0.1
    else:
        native.layers[0].fc1.forward = lambda x: torch.zeros(*x.shape[:-1], 128)
    output = native(x)
    assert not calls
    assert torch.equal(output, native.formula(x, None, None, None))


def test_gradients_of_gradients(calls):
    native, plain = accelerate(encoder()), encoder()
    x = torch.randn(2, 3, 32)
    outcomes = []
    for model in (native, plain):
        y = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(y).sin().sum(), y, create_graph=True)
        outcomes.append(torch.autograd.grad(grad.square().sum(), [y, model.layers[0].fc1.weight]))
    assert calls[0] == "forward"
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_hooks_on_saved_tensors_may_return_any_memory_layout(calls):
    plain, x = encoder(), torch.randn(3, 5, 32, requires_grad=True)
    native = accelerate(deepcopy(plain))

    def elsewhere(saved):
        memory = torch.empty(2 * saved.numel() + 1, dtype=saved.dtype)
        return memory[1::2].view(saved.shape).copy_(saved)

    expected = torch.autograd.grad(plain(x).sin().sum(), [x, *plain.parameters()])
    with torch.autograd.graph.saved_tensors_hooks(elsewhere, lambda saved: saved):
        found = torch.autograd.grad(native(x).sin().sum(), [x, *native.parameters()])
    assert calls == ["forward", "backward"]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_gradients_of_many_sums_at_once():
    plain, x, several = encoder(), torch.randn(3, 5, 32), torch.randn(4, 3, 5, 32)
    outcomes = [
        torch.autograd.grad(model(x), list(model.parameters()), several, is_grads_batched=True)
        for model in (accelerate(deepcopy(plain)), plain)
    ]
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_formula_can_be_differentiated_twice():
    torch.manual_seed(0)
    small = Encoder(8, 2, 1, 4, 0.0).double()
    x = torch.randn(1, 2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(small, (x,))


@pytest.mark.skipif(torch.__version__ < "2.7", reason="PyTorch 2.6 does not trace LSTMs")
@pytest.mark.parametrize("is_native", [False, True])
def test_a_model_exports_with_any_batch(is_native):
    model = build("nhfnet", {"layers": 1}, WIDTHS, 1).eval()
    x = inputs()
    expected = model(*x)
    if is_native:
        accelerate(model)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, tuple(x), dynamic_shapes=[{0: batch}] * 3)
    torch.testing.assert_close(program.module()(*x), expected, atol=1e-5, rtol=1e-5)
    more = inputs(7)
    torch.testing.assert_close(program.module()(*more), model(*more), atol=1e-5, rtol=1e-5)


def test_copies_and_pickles_work_as_the_original():
    native, x = accelerate(encoder()), torch.randn(2, 3, 32)
    for copy in (deepcopy(native), pickle.loads(pickle.dumps(native))):
        assert torch.equal(copy(x), native(x))
        with torch.no_grad():
            copy.layer_norm.weight.zero_()
        assert not torch.equal(copy(x), native(x))


def test_the_sums_do_not_depend_on_the_number_of_threads():
    x, keys = torch.randn(37, 50, 32), torch.arange(37)
    runs = []
    for threads in (1, 2, 3, 8):
        native = accelerate(encoder(dropout=0.4), threads=threads).train()
        output = native(x, None, None, keys)
        runs.append([output, *torch.autograd.grad(output.sin().sum(), list(native.parameters()))])
    for run in runs[1:]:
        assert all(torch.equal(*pair) for pair in zip(runs[0], run, strict=True))


def test_weights_are_identified_by_name_not_by_order():
    plain = encoder()
    reordered = encoder()
    for layer in reordered.layers:  # as if its modules had been defined in another order
        layer._modules = dict(reversed(layer._modules.items()))
        layer.self_attn._parameters = dict(reversed(layer.self_attn._parameters.items()))
    x = torch.randn(2, 3, 32)
    torch.testing.assert_close(accelerate(reordered)(x), plain(x), atol=1e-5, rtol=1e-5)


def test_a_weight_of_another_shape_is_never_read(calls):
    native = accelerate(encoder())
    native.layers[0].fc1.weight = nn.Parameter(torch.zeros(64, 32))
    with pytest.raises(RuntimeError):
        native(torch.randn(2, 3, 32))
    assert not calls


def test_a_module_put_in_later_is_the_one_that_counts(calls):
    native, x = accelerate(encoder()), torch.randn(2, 3, 32)
    before = native(x)
    native.layers[1].fc2 = nn.Linear(128, 32)
    assert not torch.equal(native(x), before)
    native.layers[1].fc2 = DoublingLinear(128, 32)
    calls.clear()
    torch.testing.assert_close(native(x), native.formula(x, None, None, None))
    assert not calls


class DoublingLinear(nn.Linear):
    """A layer whose formula the compiled code does not know."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("is_loaded_before", [True, False])
def test_it_works_in_a_forked_process(is_loaded_before):
    x = torch.randn(8, 50, 32)
    plain = encoder()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(300, 300) @ torch.randn(300, 300)  # starts threads, which a fork lacks
    native = accelerate(encoder(), threads=2) if is_loaded_before else None
    with torch.inference_mode():
        expected = plain(x)
        if native is not None:
            native(x)
        child = os.fork()
        if not child:
            signal.alarm(20)  # waiting for threads that the fork lacks would never end
            torch.set_num_threads(1)
            if native is None:
                library.cache_clear()
                native = accelerate(encoder(), threads=2)
            is_right = type(native) is NativeEncoder and (native(x) - expected).abs().max() < 1e-5
            os._exit(0 if is_right else 1)
    torch.set_num_threads(threads)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("of_inference", ["x", "memory", "keys"])
def test_tensors_of_inference_mode_are_left_to_the_formula_where_weights_learn(calls, of_inference):
    plain = encoder(dropout=0.4)
    tensors = {"x": torch.randn(3, 5, 32), "memory": torch.randn(3, 6, 32), "keys": torch.arange(3)}
    with torch.inference_mode():
        tensors[of_inference] = tensors[of_inference].clone()
    arguments = tensors["x"], tensors["memory"], None, tensors["keys"]
    outcomes = [
        torch.autograd.grad(model(*arguments).sin().sum(), list(model.parameters()))
        for model in (plain, accelerate(deepcopy(plain)))
    ]
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not calls


@pytest.mark.parametrize("wrapped", ["layer", "attention"])
def test_a_wrapped_module_is_left_to_the_formula(calls, wrapped):
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *arguments):
            return self.inner(*arguments)

    plain, native, x = encoder(), accelerate(encoder()), torch.randn(2, 3, 32)
    if wrapped == "layer":
        native.layers[1] = Wrapped(native.layers[1])
    else:
        native.layers[1].self_attn = Wrapped(native.layers[1].self_attn)
    torch.testing.assert_close(native(x), plain(x))
    assert not calls


def test_weights_that_change_between_calls_are_seen(calls):
    model, x = build("nhfnet", {}, WIDTHS, 1).eval(), inputs()
    native = accelerate(deepcopy(model))
    with torch.no_grad():
        native(*x)
    for changed in (model, native):  # `.data` does not change a tensor's version
        changed.self_attention_encoder.layers[0].fc1.weight.data.mul_(2)
    torch.testing.assert_close(native(*x), model(*x), atol=1e-5, rtol=1e-5)


def test_a_pass_that_fails_shares_nothing_with_the_next(calls):
    model, x = build("nhfnet", {}, WIDTHS, 1).eval(), inputs()
    native = accelerate(deepcopy(model))
    with pytest.raises(RuntimeError):
        native(x[0], x[1], x[2][..., 1:])  # after the encoder of audio and visual
    assert packing._pass.packed is None
    encoder = native.audio_visual_encoder
    with torch.no_grad():
        before = encoder(torch.ones(1, 2, 32))
        encoder.layers[0].fc1.weight.data.mul_(2)
        assert not torch.equal(encoder(torch.ones(1, 2, 32)), before)


def test_the_calls_of_a_pass_share_the_array_of_the_weights(calls, monkeypatch):
    native, packed = accelerate(build("nhfnet", {}, WIDTHS, 1)), []
    take = packing.packed_weights
    monkeypatch.setattr(
        "models.native.encoding.packed_weights",
        lambda *args: packed.append(take(*args)) or packed[-1],
    )
    native(*inputs()).sum().backward()
    assert (len(packed), len({id(array) for array in packed})) == (9, 3)
    assert all(parameter.grad is not None for parameter in native.parameters())


class TwoCalls(nn.Module):
    """Two calls of an encoder, which may share its weights."""

    def __init__(self, way):
        super().__init__()
        self.encoder, self.way = encoder(), way

    def forward(self, x):
        first = self.encoder(x)
        if self.way == "other weights":
            doubled = {name: 2 * value for name, value in self.encoder.named_parameters()}
            return first + torch.func.functional_call(self.encoder, doubled, x)
        if self.way == "changed weights":
            with torch.no_grad():
                self.encoder.layers[0].fc1.weight.mul_(2)
            return first.detach() + self.encoder(x)
        return first + self.encoder(first, memory=2 * first)


@pytest.mark.parametrize("way", ["the same weights", "other weights", "changed weights"])
def test_calls_share_weights_within_a_pass_unless_these_differ(calls, way):
    x, outcomes = torch.randn(2, 3, 32), []
    for model in (TwoCalls(way), accelerate(TwoCalls(way))):
        out = model(x)
        weights = list(model.parameters())
        outcomes.append([out, *torch.autograd.grad(out.sin().sum(), weights)])
    assert calls
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_gradients_of_gradients_of_calls_that_depend_on_each_other(calls):
    x, outcomes = torch.randn(2, 3, 32), []
    for model in (TwoCalls("the same weights"), accelerate(TwoCalls("the same weights"))):
        y = x.clone().requires_grad_()
        weight = model.encoder.layers[0].fc1.weight
        (grad,) = torch.autograd.grad(model(y).sin().sum(), weight, create_graph=True)
        outcomes.append([grad, *torch.autograd.grad(grad.square().sum(), [y, weight])])
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_keys_that_change_before_the_backward_pass_are_refused(calls):
    native, keys = accelerate(encoder(dropout=0.4)).train(), torch.tensor([3, 4])
    out = native(torch.randn(2, 3, 32), dropout_keys=keys)
    keys.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_the_self_test_leaves_the_generators_of_gpus_alone(compiled, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded"))
    self_test(compiled, 32, 8, 128)
