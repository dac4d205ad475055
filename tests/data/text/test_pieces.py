"""Word pieces as arrays: those that the features are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.text.bert import make_tokenizer
from data.text.encoder import TextEncoder
from data.text.pieces import (
    PieceCutter,
    pieces_of_sentence,
    vocabulary_digest,
    vocabulary_text,
    write_pieces,
)
from system.errors import InputError
from tests.data.text.test_encoder import MINILM
from tests.golden import GOLDEN


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder(str(MINILM), "cpu")


@pytest.fixture(scope="module")
def by_word(minilm):
    return PieceCutter(minilm.tokenizer, 512, by_word=True)


def test_pieces_are_written_as_ids_and_mask(minilm, tmp_path):
    with np.load(GOLDEN / "minilm.npz") as golden:
        sentences = golden["sentences"].tolist()
        expected = np.stack([golden["input_ids"], golden["input_mask"]], axis=1)
    write_pieces(tmp_path / "pieces50.npy", sentences, minilm.cutter)
    pieces = np.load(tmp_path / "pieces50.npy")
    np.testing.assert_array_equal(pieces, expected)
    assert pieces.nbytes == 200 * len(sentences)


@given(st.text(st.sampled_from("aé ΟΣ好,[UNK]\t\n\x1c\x85\xa0\u2028\u200b")))
def test_words_cut_by_themselves_give_the_sentences_pieces(minilm, sentence):
    pieces = pieces_of_sentence(minilm.tokenizer, sentence)
    assert pieces == minilm.tokenizer.tokenize(sentence)[:48]


def test_pieces_of_words_tell_the_position_of_their_word(by_word, minilm):
    sentences = ["great uncharacteristically", "good \u200b film", ""]
    ids, mask, positions = by_word.cut(sentences).swapaxes(0, 1)
    pieces = minilm.tokenizer.tokenize(sentences[0])
    count = len(pieces)
    assert count > 3
    assert minilm.tokenizer.convert_ids_to_tokens(ids[0].tolist()) == ["[CLS]", *pieces, "[SEP]"]
    assert positions[0].tolist() == [0, 49, *[50] * (count - 1), 0]
    assert positions[1].tolist() == [0, 48, 50] + [0] * (count - 1)  # the middle word has none
    assert positions[2].tolist() == [0] * (count + 2)
    assert mask.sum(axis=1).tolist() == [count + 2, 4, 2]


def test_as_many_pieces_of_words_are_kept_as_the_bert_takes(minilm):
    cutter = PieceCutter(minilm.tokenizer, 10, by_word=True)
    ids, mask, positions = cutter.cut([" ".join(["film"] * 60)])[0]
    assert len(ids) == mask.sum() == 10
    assert positions.tolist() == [0, *range(1, 9), 0]


def test_a_vocabulary_makes_the_same_tokenizer(minilm):
    vocabulary = vocabulary_text(minilm.tokenizer.vocab)
    again = make_tokenizer(vocabulary, 30522, "here")
    assert again.vocab == minilm.tokenizer.vocab
    assert vocabulary_digest(vocabulary_text(again.vocab)) == vocabulary_digest(vocabulary)
    assert vocabulary_digest(vocabulary + "\nmore") != vocabulary_digest(vocabulary)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ("", r"^here lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb", "^here has 6 pieces, but .* says 5"),
    ],
)
def test_a_vocabulary_of_no_bert_is_refused(vocabulary, message):
    with pytest.raises(InputError, match=message):
        make_tokenizer(vocabulary, 5, "here")
