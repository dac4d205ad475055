"""A text encoder in front of a model: the prepared features, their gradients, and checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.text.bert import load_bert
from data.text.encoder import TextEncoder as Preparing
from data.text.pieces import vocabulary_text
from models.checkpoint import read_checkpoint, restore_model, write_checkpoint
from models.export import export
from models.nhfnet import NHFNet
from models.registry import MODELS, build, restore
from models.text_encoder import TextEncoder, TextEncoderConfig, WithTextEncoder
from system.errors import InputError
from tests.cuda import needs_cuda, on_cuda
from tests.data.text.test_encoder import MINILM
from tests.golden import GOLDEN

SENTENCES = ["great film", "the movie was bad sp", "", "unknown really really " * 12]
TINY = TextEncoderConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=60,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
WIDTHS = {"visual": 3, "audio": 4, "text": 8}


def of_folder(folder, words=0, **changes):
    """Return the text encoder that a BERT folder holds, in evaluation mode."""
    tokenizer, bert = load_bert(Path(folder))
    config = TextEncoderConfig(**{**asdict(bert.config), **changes}, words=words)
    encoder = TextEncoder(config, vocabulary_text(tokenizer.vocab), str(folder))
    encoder.bert.load_state_dict(bert.state_dict())
    return encoder.eval()


def as_pieces(preparing, sentences):
    return torch.from_numpy(preparing.cutter.cut(sentences).swapaxes(1, 2)).float()


def tiny(config=TINY):
    torch.manual_seed(0)
    encoder = TextEncoder(config, "[PAD]", "here")
    for parameter in encoder.parameters():  # biases and norms away from 0 and 1
        torch.nn.init.normal_(parameter, std=0.4)
    return encoder


def tiny_pieces(batch=3, length=7, words=0):
    encoder = TextEncoder(replace(TINY, words=words), "", "")
    return encoder.example(batch, length, torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- the features


@torch.no_grad()
def test_the_features_are_the_golden_ones():
    with np.load(GOLDEN / "minilm.npz") as golden:
        pieces = np.stack([golden["input_ids"], golden["input_mask"]], axis=2)
        hidden = of_folder(MINILM)(torch.from_numpy(pieces).float())
        np.testing.assert_allclose(hidden, golden["features"], atol=1e-4, rtol=0)


@needs_cuda
@torch.no_grad()
def test_the_features_on_cuda_are_the_golden_ones():
    with np.load(GOLDEN / "minilm.npz") as golden:
        pieces = np.stack([golden["input_ids"], golden["input_mask"]], axis=2)
        hidden = on_cuda(of_folder(MINILM))(torch.from_numpy(pieces).float())
        np.testing.assert_allclose(hidden, golden["features"], atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("by_word", [False, True])
@pytest.mark.parametrize("bert", ["demo", "minilm"])
def test_the_features_are_the_prepared_ones(demo, bert, by_word):
    folder = demo / "demo_bert" if bert == "demo" else MINILM
    preparing = Preparing(str(folder), "cpu", by_word=by_word)
    encoder = of_folder(folder, words=50 if by_word else 0)
    hidden = encoder(as_pieces(preparing, SENTENCES))
    np.testing.assert_allclose(hidden, preparing.encode(SENTENCES), atol=1e-4, rtol=0)


@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_other_activations(demo, tmp_path, activation):
    import shutil

    shutil.copytree(demo / "demo_bert", tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_act": activation}))
    preparing = Preparing(str(tmp_path / "bert"), "cpu")
    with torch.no_grad():
        hidden = of_folder(tmp_path / "bert")(as_pieces(preparing, SENTENCES))
    np.testing.assert_allclose(hidden, preparing.encode(SENTENCES), atol=1e-4, rtol=0)


def test_dropout_is_that_of_the_configuration():
    config = replace(TINY, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    encoder, pieces = tiny(config).train(), tiny_pieces()
    torch.manual_seed(3)
    first = encoder(pieces)
    assert not torch.equal(encoder(pieces), first)
    torch.manual_seed(3)
    assert torch.equal(encoder(pieces), first)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        other = tiny(replace(config, **{name: 0.0})).train()
        torch.manual_seed(3)
        assert not torch.equal(other(pieces), first)


DROPOUTS = ("embeddings.dropout", "layer.0.attention.output.dropout", "layer.1.output.dropout")


@pytest.mark.parametrize("suffix", [*DROPOUTS, "layer.1.attention.self"])
def test_each_dropout_acts_alone(suffix):
    encoder, pieces = tiny().train(), tiny_pieces()
    (module,) = [x for name, x in encoder.named_modules() if name.endswith(suffix)]
    assert torch.equal(encoder(pieces), encoder(pieces))
    if suffix in DROPOUTS:
        module.p = 0.5
    else:
        module.dropout = 0.5
    assert not torch.equal(encoder(pieces), encoder(pieces))


def test_numbers_that_are_no_word_pieces_are_refused():
    encoder = tiny(replace(TINY, words=5))
    encoder.check_length(60, "here")
    encoder.check_pieces([0, 0, 0], [19, 1, 5], "here")
    for lowest, highest, message in (
        ([-1, 0, 0], [19, 1, 5], "word pieces from -1 to 19, but the text encoder knows 20"),
        ([0, 0, 0], [20, 1, 5], "word pieces from 0 to 20"),
        ([0, 0, 0], [19, 2, 5], "the mask of word pieces from 0 to 2, expected from 0 to 1"),
        ([0, 0, 0], [19, 1, 6], "the positions of words of word pieces from 0 to 6"),
        ([0, 0, -1], [19, 1, 5], "the positions of words of word pieces from -1 to 5"),
    ):
        with pytest.raises(InputError, match=f"here: {message}"):
            encoder.check_pieces(lowest, highest, "here")
    with pytest.raises(InputError, match="61 word pieces a text, but the text encoder takes 60"):
        encoder.check_length(61, "here")


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("words", [0, 5])
@pytest.mark.parametrize("mode", ["eval", "train", "checkpoints"])
def test_gradients_are_those_of_finite_differences(words, mode):
    """Of all parameters, the embeddings among them, along random directions."""
    encoder = tiny(replace(TINY, words=words)).double().train(mode != "eval")
    encoder.bert.checkpoints = mode == "checkpoints"
    pieces = tiny_pieces(words=words).double()
    weights = torch.randn(encoder(pieces).shape, generator=torch.Generator().manual_seed(2))

    def loss():
        return (encoder(pieces) * weights).sum()

    loss().backward()
    generator, step = torch.Generator().manual_seed(4), 1e-5
    learning = set()
    for name, parameter in encoder.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if "word_embeddings" in name:
            direction[0] = 0  # [PAD] does not learn, as in every BERT
        gradient = parameter.grad
        with torch.no_grad():
            parameter += step * direction
            above = loss()
            parameter -= 2 * step * direction
            difference = ((above - loss()) / (2 * step)).item()
            parameter += step * direction
        assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-5, abs=1e-6)
        if difference:
            learning.add(name)
    for kind in ("word", "position", "token_type"):
        assert f"bert.embeddings.{kind}_embeddings.weight" in learning


def test_gradients_go_through_every_model_to_the_embeddings():
    for name in MODELS:
        model = WithTextEncoder(tiny(), build(name, {}, WIDTHS, 1))
        inputs = torch.randn(2, 5, 3), torch.randn(2, 6, 4), tiny_pieces(2)
        model(*inputs).square().sum().backward()
        gradient = model.text_encoder.bert.embeddings.word_embeddings.weight.grad
        assert gradient[inputs[2][..., 0].long().unique()].abs().sum() > 0, name


@pytest.mark.parametrize("frozen", [None, 0, 1])
def test_computing_layers_again_gives_the_same_gradients_with_dropout(frozen):
    config = replace(TINY, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    gradients, saved_values = [], []
    for checkpoints in (False, True):
        encoder = tiny(config).train()
        encoder.bert.checkpoints = checkpoints
        if frozen is not None:  # what learns is computed again, from its first layer on
            encoder.freeze(frozen)
        sizes = []
        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x
        ):
            loss = encoder(tiny_pieces()).square().sum()
        loss.backward()
        gradients.append({name: x.grad for name, x in encoder.named_parameters()})
        saved_values.append(sum(sizes))
    for name, gradient in gradients[0].items():
        if gradient is not None:
            assert torch.equal(gradient, gradients[1][name]), name
    assert saved_values[1] < saved_values[0] / 2


def test_what_is_frozen_does_not_learn():
    encoder = tiny()
    encoder.freeze(1)
    encoder(tiny_pieces()).sum().backward()
    learnt = {name for name, x in encoder.named_parameters() if x.grad is not None}
    assert learnt and all(name.startswith("bert.encoder.layer.1.") for name in learnt)
    other = tiny()
    other.freeze(0)
    assert not other.bert.embeddings.LayerNorm.weight.requires_grad
    assert all(x.requires_grad for x in other.bert.parts[1].parameters())
    with pytest.raises(InputError, match="--freeze_layers 3: the text encoder has 2 layers"):
        tiny().freeze(3)


# ---------------------------------------------------------------- in files


@pytest.fixture
def written(tmp_path):
    torch.manual_seed(2)
    model = WithTextEncoder(tiny(replace(TINY, words=5)), build("nhfnet", {"layers": 1}, WIDTHS, 1))
    write_checkpoint(tmp_path / "a.pth", model, "nhfnet", task="sentiment")
    return tmp_path / "a.pth", model.eval()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_holds_the_text_encoder(written, suffix):
    path, model = written
    if suffix != ".pth":
        export(path, path.with_suffix(suffix))
    name, restored = restore(read_checkpoint(path.with_suffix(suffix)))
    assert name == "nhfnet"
    assert (restored.config, restored.widths) == (model.config, {**WIDTHS, "text": 3})
    assert asdict(restored.text_encoder.config) == asdict(model.text_encoder.config)
    assert (restored.text_encoder.vocabulary, restored.text_encoder.origin) == ("[PAD]", "here")
    inputs = torch.randn(2, 5, 3), torch.randn(2, 6, 4), tiny_pieces(2, words=5)
    assert torch.equal(restored(*inputs), model(*inputs))


@pytest.mark.parametrize("batch", [(1, (1, 1, 2)), (3, (50, 20, 40))])
def test_onnx_predicts_the_same_from_word_pieces(written, batch):
    onnxruntime = pytest.importorskip("onnxruntime")
    path, model = written
    export(path, path.with_suffix(".onnx"))
    session = onnxruntime.InferenceSession(path.with_suffix(".onnx"))
    rows, (visual, audio, text) = batch
    pieces = tiny_pieces(rows, text, words=5)
    inputs = torch.randn(rows, visual, 3), torch.randn(rows, audio, 4), pieces
    named = {kind: x.numpy() for kind, x in zip(WIDTHS, inputs, strict=True)}
    (output,) = session.run(["prediction"], named)
    with torch.no_grad():
        np.testing.assert_allclose(output, model(*inputs), atol=1e-4, rtol=1e-4)
    details = json.loads(session.get_modelmeta().custom_metadata_map["checkpoint"])
    assert details["text_encoder"]["vocabulary"] == "[PAD]"


def test_a_model_alone_is_not_what_such_a_file_holds(written):
    with pytest.raises(InputError, match="text encoder of its own"):
        NHFNet.from_checkpoint(written[0])
    with pytest.raises(InputError, match="text encoder of its own"):
        restore_model(read_checkpoint(written[0]), NHFNet)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": None}, "has no vocabulary"),
        ({"vocabulary": 3}, "has no vocabulary"),
        ({"origin": []}, "has no origin"),
        ({"hidden_size": 2**40}, "hidden_size is 1099511627776"),
        ({"hidden_size": 2**16, "intermediate_size": 2**16}, "does not fit TextEncoder"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"vocab_size": 10**7}, "does not fit TextEncoder"),
        ({"num_attention_heads": 3}, "not divisible by 3 heads"),
        ({"hidden_act": "exec"}, "hidden_act"),
        ({"words": True}, "words is True"),
        ({"words": 0}, "the width of text is 3, but its text encoder takes 2"),
        ({"more": 1}, "there is no setting 'more'"),
    ],
)
def test_a_damaged_text_encoder_is_refused_in_a_line(written, change, message):
    path, _ = written
    content = torch.load(path)
    content["text_encoder"] |= change
    torch.save(content, path)
    with pytest.raises(InputError, match=message) as caught:
        restore(read_checkpoint(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["text encoder", "missing", "width", "weight", "stray"])
def test_other_damage_is_refused_too(written, kind):
    path, _ = written
    content = torch.load(path)
    weights = content["model_state_dict"]
    if kind == "text encoder":
        content["text_encoder"] = [1]
    elif kind == "missing":
        del content["text_encoder"]["hidden_size"]
    elif kind == "width":
        content["widths"]["text"] = torch.ones(3)
    elif kind == "weight":
        del weights["text_encoder.bert.embeddings.LayerNorm.bias"]
    else:
        weights["text_decoder"] = torch.zeros(1)
    torch.save(content, path)
    with pytest.raises(InputError, match=str(path)):
        restore(read_checkpoint(path))
