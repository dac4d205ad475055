"""NHFNet against the released code's numbers and against the literal model."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from data.errors import InputError
from models import cpu_layer, released
from models.checkpoint import read_checkpoint
from models.encoder import Encoder, EncoderLayer, embed, sinusoids
from models.nhfnet import NHFNet, NHFNetSizes
from tests.golden import GOLDEN
from tests.plain import PlainEncoder, PlainNHFNet

CHECKPOINT = GOLDEN / "released_format.pth"


@pytest.fixture(scope="module")
def forward_golden():
    with np.load(GOLDEN / "forward.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def trace():
    with np.load(GOLDEN / "train_trace.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(params=["cpu_layer", "formula"])
def path(request, monkeypatch):
    """Each way a CPU can compute an encoder layer."""
    if request.param == "formula":
        monkeypatch.setattr(cpu_layer, "is_for", lambda x: False)


def random_model(**sizes) -> NHFNet:
    torch.manual_seed(3)
    model = NHFNet(NHFNetSizes(**sizes))
    for parameter in model.parameters():  # biases and norms away from 0 and 1
        nn.init.normal_(parameter, std=0.2)
    return model


def random_inputs(batch, visual, audio, text, sizes):
    generator = torch.Generator().manual_seed(batch * 1000 + visual + audio + text)
    shapes = [(visual, sizes.visual), (audio, sizes.audio), (text, sizes.text)]
    inputs = [torch.randn(batch, *shape, generator=generator) for shape in shapes]
    for x in inputs[:2]:
        x[:, : x.shape[1] // 3] = 0  # padding in front
    return inputs


@pytest.mark.parametrize("kind", ["aligned", "unaligned"])
def test_outputs_are_the_released_codes(forward_golden, kind, path):
    model = NHFNet.from_checkpoint(CHECKPOINT)
    inputs = [forward_golden[f"{kind}_{modality}"] for modality in ("visual", "audio", "bert")]
    with torch.no_grad():
        output = model(*inputs)
    torch.testing.assert_close(output, forward_golden[f"{kind}_output"], atol=1e-5, rtol=0)


def test_training_follows_the_released_codes_trace(trace, forward_golden, path):
    sizes = NHFNetSizes(cross_modal_dropout=0.0)  # the trace was made without dropout
    model = NHFNet(sizes)
    model.load_state_dict(read_checkpoint(CHECKPOINT).weights)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(len(trace["losses"])):
        batch = [torch.from_numpy(trace[f"{name}_{step}"]) for name in ("visual", "audio", "bert")]
        loss = nn.functional.mse_loss(model(*batch), torch.from_numpy(trace[f"label_{step}"]))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            check_gradient_norms(model, trace)
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, trace["losses"], rtol=1e-3)
    with torch.no_grad():
        inputs = [forward_golden[f"aligned_{name}"] for name in ("visual", "audio", "bert")]
        output = model.eval()(*inputs)
    np.testing.assert_allclose(output, trace["final_output"], rtol=1e-3, atol=1e-4)


def check_gradient_norms(model, trace):
    expected = {
        name.removeprefix("gradnorm/"): torch.tensor(float(value))
        for name, value in trace.items()
        if name.startswith("gradnorm/")
    }
    expected = released.rename(expected)
    found = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    assert set(found) == set(expected)
    for name, norm in found.items():
        assert norm == pytest.approx(expected[name].item(), rel=1e-3, abs=1e-6), name


def test_parameter_count_is_the_papers():
    assert sum(p.numel() for p in NHFNet(NHFNetSizes()).parameters()) == 636_801


@pytest.mark.parametrize("lengths", [(50, 50, 50), (80, 120, 50), (1, 7, 3), (9, 1, 1), (7, 7, 2)])
def test_agrees_with_the_literal_model(lengths, path):
    model = random_model().eval()
    plain = PlainNHFNet(model.state_dict()).eval()
    inputs = random_inputs(3, *lengths, model.sizes)
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), plain(*inputs), atol=1e-4, rtol=1e-4)


def test_gradients_agree_with_the_literal_model(path):
    model = random_model(cross_modal_dropout=0.0).double()
    plain = PlainNHFNet(model.state_dict(), cross_modal_dropout=0.0)
    inputs = [x.double() for x in random_inputs(2, 6, 5, 4, model.sizes)]
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
    x = torch.randn(2, 11, 32)
    memory = None if memory_length is None else torch.randn(2, memory_length, 32)
    torch.testing.assert_close(encoder(x, memory), plain(x, memory), atol=1e-5, rtol=1e-5)


def random_layer(dropout: float = 0.0, scale: float = 0.3) -> EncoderLayer:
    torch.manual_seed(5)
    layer = EncoderLayer(width=32, heads=8, feedforward=128, dropout=dropout).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=scale)
    return layer


def outputs_and_gradients(layer, x, memory, last_tokens_only):
    """The layer's output and the gradients of its inputs and weights."""
    inputs = [None if value is None else value.clone().requires_grad_() for value in (x, memory)]
    output = layer(*inputs, last_tokens_only)
    wanted = [value for value in inputs if value is not None] + list(layer.parameters())
    return [output, *torch.autograd.grad(output.sin().sum(), wanted)]


@given(
    batch=st.integers(1, 40),
    tokens=st.integers(1, 12),
    memory_tokens=st.none() | st.integers(1, 9),
    last_tokens_only=st.none() | st.integers(1, 4),
    scale=st.sampled_from([0.3, 1.0]),  # with the large one, scores need the softmax's shift
)
@settings(max_examples=40, deadline=None)
def test_the_cpu_layer_agrees_with_the_formula(
    batch, tokens, memory_tokens, last_tokens_only, scale
):
    layer = random_layer(scale=scale)
    x = torch.randn(batch, tokens, 32, dtype=torch.float64)
    memory = None if memory_tokens is None else torch.randn(batch, memory_tokens, 32).double()
    found = outputs_and_gradients(layer, x, memory, last_tokens_only)
    with mock.patch.object(cpu_layer, "is_for", lambda x: False):
        expected = outputs_and_gradients(layer, x, memory, last_tokens_only)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7 * theirs.abs().max().item())


def test_the_cpu_layers_gradients_with_dropout_are_its_own():
    layer = random_layer(dropout=0.4)
    x, memory = torch.randn(2, 3, 32).double(), torch.randn(2, 4, 32).double()

    def same_dropout_each_time(x, memory):
        torch.manual_seed(0)
        return layer(x, memory)

    inputs = x.requires_grad_(), memory.requires_grad_()
    assert torch.autograd.gradcheck(same_dropout_each_time, inputs, fast_mode=True)


def test_the_cpu_layer_drops_as_often_as_the_formula(monkeypatch):
    layer = random_layer(dropout=0.4)
    x = torch.randn(1, 3, 32).double().expand(20_000, -1, -1)
    with torch.no_grad():
        torch.manual_seed(1)
        ours = layer(x)
        torch.manual_seed(1)
        assert torch.equal(layer(x), ours)
        monkeypatch.setattr(cpu_layer, "is_for", lambda x: False)
        theirs = layer(x)
    # Means of 20,000 draws and their spreads, in standard errors and per cent.
    error = ours.std(0) * (2 / len(x)) ** 0.5
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).all()
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.05, atol=0)


def test_scores_beyond_what_exp_can_hold_give_the_same_as_the_formula():
    layer = random_layer().float()
    with torch.no_grad():
        layer.self_attn.in_proj_weight[:64] *= 100
        ours = layer(x := torch.randn(2, 9, 32))
        with mock.patch.object(cpu_layer, "is_for", lambda x: False):
            theirs = layer(x)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("memory_length", [None, 5])
@pytest.mark.parametrize("count", [1, 4, 30])
def test_last_tokens_only_are_the_last_of_all(path, memory_length, count):
    torch.manual_seed(0)
    encoder = Encoder(width=32, heads=8, layers=2, feedforward=128, attention_dropout=0.0)
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
    model = random_model().train()
    visual, audio, text = random_inputs(2, 6, 6, 6, model.sizes)
    fused = [model.fuse_audio_visual(visual, audio) for _ in range(2)]
    encoded = [model.encode_text(text) for _ in range(2)]
    assert torch.equal(*fused)
    assert torch.equal(*encoded)
    crossed = [model.cross_modal_encoder(fused[0], encoded[0]) for _ in range(2)]
    assert not torch.equal(*crossed)


def test_initialisation_is_xavier_with_zero_biases():
    torch.manual_seed(0)
    layer = NHFNet(NHFNetSizes()).cross_modal_encoder.layers[2]
    for weight in (layer.self_attn.in_proj_weight, layer.fc1.weight, layer.fc2.weight):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.9 * bound < weight.abs().max() <= bound
    for bias in (layer.self_attn.in_proj_bias, layer.self_attn.out_proj.bias, layer.fc1.bias):
        assert (bias == 0).all()


@pytest.mark.parametrize("sizes", [{"width": 30}, {"visual": 0}, {"text": "768"}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=next(iter(sizes))):
        NHFNetSizes(**sizes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu(forward_golden):
    model = NHFNet.from_checkpoint(CHECKPOINT).cuda()
    inputs = [forward_golden[f"aligned_{name}"].cuda() for name in ("visual", "audio", "bert")]
    with torch.no_grad():
        output = model(*inputs).cpu()
    torch.testing.assert_close(output, forward_golden["aligned_output"], atol=1e-4, rtol=0)


def test_a_model_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="No checkpoint at"):
        NHFNet.from_checkpoint(tmp_path / "nothing.pth")
