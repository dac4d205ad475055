"""The encoder gives the numbers of pytorch_pretrained_bert, whatever is padding."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from pytorch_pretrained_bert import BertForPreTraining
from pytorch_pretrained_bert.modeling import ACT2FN
from torch import nn
from torch.nn import functional as F

from system.bert import Bert, BertConfig
from tests.data.text.test_bert import features, random_batch, random_model


def bert_of(model: BertForPreTraining, precision=torch.float32) -> Bert:
    """Return our form of a model of pytorch_pretrained_bert."""
    values = {f.name: getattr(model.config, f.name, f.default) for f in fields(BertConfig)}
    bert = Bert(BertConfig(**values))
    weights = {k: v for k, v in model.bert.state_dict().items() if not k.startswith("pooler.")}
    bert.load_state_dict(weights)
    return bert.eval().to(precision)


@torch.no_grad()
def encoded(bert, ids, mask):
    return bert(ids, mask)


@pytest.mark.parametrize("activation", sorted(ACT2FN))
@pytest.mark.parametrize("layers", [1, 3])
def test_it_gives_the_same_numbers(activation, layers):
    model = random_model(hidden_act=activation, num_hidden_layers=layers)
    hidden = encoded(bert_of(model), *random_batch())
    assert hidden.dtype == torch.float32
    torch.testing.assert_close(hidden, features(model.bert), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [[20, 20, 20], [20, 0, 3], [0, 0, 0], [1, 1, 1]])
def test_any_padding_gives_the_same_numbers(lengths):
    """A text without words attends to its padding."""
    model, (ids, _) = random_model(), random_batch()
    mask = (torch.arange(20) < torch.tensor(lengths)[:, None]).long()
    with torch.no_grad():
        expected, _ = model.bert(ids, attention_mask=mask, output_all_encoded_layers=False)
    torch.testing.assert_close(encoded(bert_of(model), ids, mask), expected, atol=1e-5, rtol=0)


def test_padding_under_autocast():
    bert, batch = bert_of(random_model()), random_batch()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = encoded(bert, *batch)
    torch.testing.assert_close(hidden.float(), encoded(bert, *batch), atol=0.2, rtol=0)


def test_padding_is_not_attended_to():
    model = bert_of(random_model())
    ids, mask = random_batch()
    before, after = (encoded(model, x, mask) for x in (ids, ids.where(mask == 1, ids.roll(1, 1))))
    torch.testing.assert_close(before[mask == 1], after[mask == 1], atol=1e-6, rtol=0)


def test_keys_and_values_are_made_of_words_alone(monkeypatch):
    model, (ids, mask) = bert_of(random_model()), random_batch()
    key = model.encoder["layer"][1].attention.self.key
    inputs, forward = [], key.forward
    monkeypatch.setattr(key, "forward", lambda x: [inputs.append(x), forward(x)][1])
    encoded(model, ids, mask)
    assert inputs[0].shape == (mask.sum(), 16)


@pytest.fixture
def left_to_linear(monkeypatch):
    """The types of the inputs of PyTorch's own `linear`."""
    types, linear = [], F.linear
    monkeypatch.setattr(F, "linear", lambda x, *rest: [types.append(x.dtype), linear(x, *rest)][1])
    return types


def test_without_onednn_the_numbers_stay(monkeypatch, left_to_linear):
    model = random_model()
    expected = features(model.bert)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    left_to_linear.clear()
    found = encoded(bert_of(model), *random_batch())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len(left_to_linear) == 2 * 6


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
def test_float32_goes_through_onednn_where_there_is_one(left_to_linear):
    """Only the first attention's four of all layers' products go through `linear`."""
    encoded(bert_of(random_model()), *random_batch())
    assert left_to_linear == [torch.float64] * 4


def test_no_values_are_drawn_that_a_file_replaces(monkeypatch):
    """On `meta`, where files are checked before they are loaded, drawing imports torch._dynamo."""
    monkeypatch.setattr(nn.init, "normal_", None)
    with torch.device("meta"):
        bert = Bert(BertConfig())
    words = bert.embeddings.word_embeddings
    assert words.weight.is_meta
    assert words.weight.requires_grad
    assert words.padding_idx == 0
