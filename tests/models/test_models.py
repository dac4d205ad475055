"""NHFNet against the released code's numbers and against the literal model."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from models.checkpoint import read_checkpoint
from models.layers.encoder import Encoder
from models.layers.positions import embed, sinusoids
from models.native import accelerate
from models.native.encoder import NativeEncoder
from models.native.library import library
from models.nhfnet import NHFNet, NHFNetConfig
from models.nhfnet.released_format import RELEASED
from system.devices import pick_device
from system.errors import InputError
from tests.cuda import DEVICES, on_cuda
from tests.golden import GOLDEN
from tests.plain import PlainEncoder, PlainNHFNet

CHECKPOINT = GOLDEN / "released_format.pth"
WIDTHS = {"visual": 35, "audio": 74, "text": 768}


@pytest.fixture(scope="module")
def forward_golden():
    with np.load(GOLDEN / "forward.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def trace():
    with np.load(GOLDEN / "train_trace.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def compiled():
    """For tests of the compiled encoder."""
    encoder = library(32, 8, 128)
    if isinstance(encoder, str):
        pytest.skip(encoder)
    return encoder


def encoders_on_cpu(request):
    """A function that makes a model use one way to compute encoders on a CPU."""
    if request.param == "formula":
        return lambda model: model
    request.getfixturevalue("compiled")
    return accelerate


@pytest.fixture(params=["compiled", "formula"])
def path(request):
    """Each way to compute a model's encoders on a CPU."""
    return encoders_on_cpu(request)


@dataclass
class Way:
    """How a model is computed: a function that sets it up, and limits for its rounding."""

    set_up: Callable[[nn.Module], nn.Module]
    output_limit: float = 1e-5
    gradient_limit: float = 1e-3
    trained_limit: float = 1e-4


@pytest.fixture(params=["compiled", "formula", *DEVICES[1:]])
def way(request):
    """Each way to compute a model, also on a GPU."""
    if request.param != "cuda":
        return Way(encoders_on_cpu(request))
    pick_device("cuda")
    # A product that rounding moves across a ReLU's corner changes a bias's gradient by so much.
    return Way(on_cuda, output_limit=5e-5, gradient_limit=1e-2, trained_limit=5e-3)


def random_model(**settings) -> NHFNet:
    torch.manual_seed(3)
    model = NHFNet(NHFNetConfig(**settings), WIDTHS)
    for parameter in model.parameters():  # biases and norms away from 0 and 1
        nn.init.normal_(parameter, std=0.2)
    return model


def random_inputs(batch, visual, audio, text):
    generator = torch.Generator().manual_seed(batch * 1000 + visual + audio + text)
    shapes = zip((visual, audio, text), WIDTHS.values(), strict=True)
    inputs = [torch.randn(batch, *shape, generator=generator) for shape in shapes]
    for x in inputs[:2]:
        x[:, : x.shape[1] // 3] = 0  # padding in front
    return inputs


@pytest.mark.parametrize("kind", ["aligned", "unaligned"])
def test_outputs_are_the_released_codes(forward_golden, kind, way):
    model = way.set_up(NHFNet.from_checkpoint(CHECKPOINT))
    inputs = [forward_golden[f"{kind}_{modality}"] for modality in ("visual", "audio", "bert")]
    with torch.no_grad():
        output = model(*inputs)
    torch.testing.assert_close(
        output, forward_golden[f"{kind}_output"], atol=way.output_limit, rtol=0
    )


def test_training_follows_the_released_codes_trace(trace, forward_golden, way):
    config = NHFNetConfig(cross_modal_dropout=0.0)  # the trace was made without dropout
    model = NHFNet(config, WIDTHS)
    model.load_state_dict(RELEASED.rename(read_checkpoint(CHECKPOINT).weights))
    way.set_up(model)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(len(trace["losses"])):
        batch = [torch.from_numpy(trace[f"{name}_{step}"]) for name in ("visual", "audio", "bert")]
        loss = nn.functional.mse_loss(model(*batch), torch.from_numpy(trace[f"label_{step}"]))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            check_gradient_norms(model, trace, way.gradient_limit)
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, trace["losses"], rtol=1e-3)
    with torch.no_grad():
        inputs = [forward_golden[f"aligned_{name}"] for name in ("visual", "audio", "bert")]
        output = model.eval()(*inputs)
    np.testing.assert_allclose(output, trace["final_output"], rtol=1e-3, atol=way.trained_limit)


def check_gradient_norms(model, trace, limit):
    expected = {
        name.removeprefix("gradnorm/"): torch.tensor(float(value))
        for name, value in trace.items()
        if name.startswith("gradnorm/")
    }
    expected = RELEASED.rename(expected)
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    assert set(norms) == set(expected)
    for name, norm in norms.items():
        assert norm == pytest.approx(expected[name].item(), rel=limit, abs=1e-6), name


def test_parameter_count_is_the_papers():
    assert sum(p.numel() for p in NHFNet(NHFNetConfig(), WIDTHS).parameters()) == 636_801


@pytest.mark.parametrize("lengths", [(50, 50, 50), (80, 120, 50), (1, 7, 3), (9, 1, 1), (7, 7, 2)])
def test_agrees_with_the_literal_model(lengths, path):
    model = random_model().eval()
    plain = PlainNHFNet(model.state_dict()).eval()
    path(model)
    inputs = random_inputs(3, *lengths)
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), plain(*inputs), atol=1e-4, rtol=1e-4)


def test_gradients_agree_with_the_literal_model():
    model = random_model(cross_modal_dropout=0.0).double()
    plain = PlainNHFNet(model.state_dict(), cross_modal_dropout=0.0)
    inputs = [x.double() for x in random_inputs(2, 6, 5, 4)]
    model(*inputs).pow(2).sum().backward()
    plain(*inputs).pow(2).sum().backward()
    for parameter, value, name in zip(model.parameters(), plain.values, plain.names, strict=True):
        # The position table is float32, so float64 gradients agree to about that.
        torch.testing.assert_close(parameter.grad, value.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("memory_length", [None, 5])
def test_encoder_agrees_with_the_literal_one(memory_length, path):
    torch.manual_seed(0)
    encoder = Encoder(width=32, heads=8, layers=4, feedforward=128, attention_dropout=0.0)
    plain = PlainEncoder(encoder.state_dict(), layers=4, heads=8, dropout=0.0)
    encoder = path(encoder)
    x = torch.randn(2, 11, 32)
    memory = None if memory_length is None else torch.randn(2, memory_length, 32)
    torch.testing.assert_close(encoder(x, memory), plain(x, memory), atol=1e-5, rtol=1e-5)


def random_encoder(dropout: float = 0.0, width: int = 32, feedforward: int = 128) -> Encoder:
    torch.manual_seed(5)
    encoder = Encoder(width, heads=8, layers=2, feedforward=feedforward, attention_dropout=dropout)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return encoder


def outputs_and_gradients(encoder, x, memory, last_tokens_only, keys):
    """The encoder's output and the gradients of its inputs and weights."""
    dtype = encoder.layer_norm.weight.dtype
    inputs = [None if value is None else value.to(dtype).requires_grad_() for value in (x, memory)]
    output = encoder(*inputs, last_tokens_only, keys)
    wanted = [value for value in inputs if value is not None] + list(encoder.parameters())
    return [output, *torch.autograd.grad(output.sin().sum(), wanted)]


@given(
    batch=st.integers(1, 9),
    tokens=st.integers(1, 90),
    memory_tokens=st.none() | st.integers(1, 90),
    last_tokens_only=st.none() | st.integers(1, 20),
    dropout=st.sampled_from([0.0, 0.4]),
    sizes=st.sampled_from([(32, 128), (64, 16)]),
)
@settings(max_examples=40, deadline=None)
def test_the_compiled_encoder_agrees_with_the_formula(
    compiled, batch, tokens, memory_tokens, last_tokens_only, dropout, sizes
):
    encoder = random_encoder(dropout, *sizes)
    x = torch.randn(batch, tokens, sizes[0])
    x[:, : tokens // 3, 0] = 0  # no positions; all-zero tokens would magnify rounding
    memory = None if memory_tokens is None else torch.randn(batch, memory_tokens, sizes[0])
    keys = torch.randint(2**32, (batch,))
    arguments = x, memory, last_tokens_only, keys
    formula = outputs_and_gradients(encoder, *arguments)
    native = accelerate(deepcopy(encoder))
    assert type(native) is NativeEncoder
    compiled_results = outputs_and_gradients(native, *arguments)
    hidden = []
    for layer in encoder.double().layers:
        layer.fc1.register_forward_hook(lambda *call: hidden.append(call[-1].abs().min().item()))
    exact = outputs_and_gradients(encoder, *arguments)
    assume(min(hidden) > 3e-6)  # rounding decides which side of the relu's corner it is on
    for ours, formulas, expected in zip(compiled_results, formula, exact, strict=True):
        rounding = (formulas - expected).abs().max().item()
        limit = 4 * rounding + 1e-5 * expected.abs().max().item() + 1e-7
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=limit)


def test_scores_beyond_what_exp_can_hold_give_the_same_as_the_formula(compiled):
    encoder = random_encoder()
    with torch.no_grad():
        for layer in encoder.layers:
            layer.self_attn.in_proj_weight[:64] *= 100
        ours = accelerate(deepcopy(encoder))(x := torch.randn(2, 9, 32))
        theirs = encoder.double()(x.double())
    assert ours.isfinite().all()
    torch.testing.assert_close(ours.double(), theirs, atol=1e-2, rtol=1e-2)


def test_an_encoder_that_was_used_in_inference_mode_can_be_trained(path):
    encoder = path(random_encoder())
    x = torch.randn(2, 37, 32)  # a length of its own, so that its positions are made here
    with torch.inference_mode():
        encoder(x)
    encoder(x).sum().backward()
    assert encoder.layer_norm.weight.grad.isfinite().all()


@pytest.mark.parametrize("change", ["batch", "width", "no tokens", "keys"])
def test_what_does_not_fit_is_refused_and_never_read(path, change):
    encoder = path(random_encoder(dropout=0.4)).train()
    x, keys = torch.randn(3, 5, 32), torch.tensor([1, 2, 3])
    shape = {"batch": (2, 7, 32), "width": (3, 7, 16), "no tokens": (3, 0, 32)}
    memory = torch.randn(*shape.get(change, (3, 7, 32)))
    if change == "keys":
        keys = keys[:2]
    if change == "no tokens":  # a softmax over nothing
        assert encoder(x, memory, None, keys).shape == x.shape
        return
    with pytest.raises((RuntimeError, IndexError)):
        encoder(x, memory, None, keys)


def test_one_memory_serves_a_whole_batch(path):
    encoder = path(random_encoder())
    x, memory = torch.randn(3, 5, 32), torch.randn(1, 7, 32)
    with torch.no_grad():
        expected = encoder(x, memory.expand(3, -1, -1))
        torch.testing.assert_close(encoder(x, memory), expected, atol=1e-5, rtol=1e-5)


def test_nothing_is_saved_where_there_is_no_backward_pass(compiled, monkeypatch):
    encoder = accelerate(random_encoder())
    forward = mock.Mock(wraps=compiled.forward)
    monkeypatch.setattr(compiled, "forward", forward)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        encoder(x)
    encoder(x)
    assert [call.args[-1] for call in forward.call_args_list] == [False, True]


def test_saved_tensors_may_be_elsewhere_meanwhile(compiled):
    encoder = accelerate(random_encoder())
    x = torch.randn(2, 5, 32, requires_grad=True)
    (expected,) = torch.autograd.grad(encoder(x).sin().sum(), x)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x.clone()):
        output = encoder(x).sin().sum()
    (grad,) = torch.autograd.grad(output, x)
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_make_that_segment_nan_alone(path, value):
    encoder = path(random_encoder())
    x = torch.randn(3, 20, 32)
    x[1, 7, 3] = value
    with torch.no_grad():
        output = encoder(x)
    assert output[1].isnan().all()
    assert output[[0, 2]].isfinite().all()


@pytest.mark.parametrize("memory_length", [None, 5])
@pytest.mark.parametrize("count", [1, 4, 30])
def test_last_tokens_only_are_the_last_of_all(path, memory_length, count):
    torch.manual_seed(0)
    encoder = path(Encoder(width=32, heads=8, layers=2, feedforward=128, attention_dropout=0.0))
    x = torch.randn(2, 11, 32)
    memory = None if memory_length is None else torch.randn(2, memory_length, 32)
    expected = encoder(x, memory)[:, -count:]
    torch.testing.assert_close(encoder(x, memory, last_tokens_only=count), expected)


def test_a_token_whose_first_channel_is_zero_gets_no_position():
    x = torch.ones(1, 3, 32)
    x[0, 1, 0] = 0
    positions = embed(x) - 32**0.5 * x
    torch.testing.assert_close(positions[0, 0], sinusoids(3, 32, x.device)[0])
    assert (positions[0, 1] == 0).all()
    torch.testing.assert_close(positions[0, 2, 0], torch.tensor(3.0).sin())
    torch.testing.assert_close(positions[0, 2, 16], torch.tensor(3.0).cos())


def test_only_the_cross_modal_encoder_drops_attention_weights(path):
    model = path(random_model()).train()
    visual, audio, text = random_inputs(2, 6, 6, 6)
    fused = [model.fuse_audio_visual(visual, audio) for _ in range(2)]
    encoded = [model.encode_text(text) for _ in range(2)]
    assert torch.equal(*fused)
    assert torch.equal(*encoded)
    crossed = [model.cross_modal_encoder(fused[0], encoded[0]) for _ in range(2)]
    assert not torch.equal(*crossed)


def test_initialisation_is_xavier_with_zero_biases():
    torch.manual_seed(0)
    layer = NHFNet(NHFNetConfig(), WIDTHS).cross_modal_encoder.layers[2]
    for weight in (layer.self_attn.in_proj_weight, layer.fc1.weight, layer.fc2.weight):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.9 * bound < weight.abs().max() <= bound
    for bias in (layer.self_attn.in_proj_bias, layer.self_attn.out_proj.bias, layer.fc1.bias):
        assert (bias == 0).all()


@pytest.mark.parametrize("settings", [{"width": 30}, {"layers": 0}, {"heads": "8"}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        NHFNetConfig(**settings)


def test_a_model_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="No checkpoint at"):
        NHFNet.from_checkpoint(tmp_path / "nothing.pth")
