"""The words or word pieces at the positions of a text."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from data.fetching.demo import demo_bert
from data.layout import read_segments
from data.text.bert_files import weights_facts
from data.text.encoder import TextEncoder
from data.text.words import name_positions
from system.errors import InputError
from tests.data.loading.test_split import write_table

SENTENCES = ["great film", "the film is", " ".join(f"w{n}" for n in range(60)), "un  believable,"]


@pytest.fixture(scope="module")
def bert(demo, tmp_path_factory):
    """The demo's BERT, to write into."""
    return shutil.copytree(demo_bert(demo), tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture
def split(tmp_path):
    """Write a split with a table of `SENTENCES` and a manifest; returns its folder."""

    def write(alignment="segment", sentences=SENTENCES, **text):
        folder = tmp_path / "data" / "test"
        folder.mkdir(parents=True)
        write_table(folder, range(len(sentences)))
        lines = (folder / "segments.csv").read_text().splitlines()
        rows = [
            f'"{n}",0,0,0,"{sentence}",0' for n, sentence in enumerate(sentences)
        ]  # id, video, start, end, sentence, sentiment
        (folder / "segments.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        manifest = {
            "made_from": {"alignment": alignment},
            "splits": {"test": {"segments": len(sentences), "videos": 1}},
            "left_out": {},
            "text": text or None,
        }
        (folder.parent / "dataset.json").write_text(json.dumps(manifest))
        return folder

    return write


def by_position(bert):
    return {"encoder": str(bert), "per": "position", "weights": weights_facts(str(bert))}


def test_pieces_are_those_that_were_encoded(split, bert):
    folder = split(**by_position(bert))
    positions = name_positions(folder, [2, 0, 3], 50)
    assert not positions.are_words
    assert list(positions.by_row) == [2, 0, 3]
    encoder = TextEncoder(str(bert), "cpu")
    for row, names in positions.by_row.items():
        ids, mask = encoder.pieces(SENTENCES[row])
        assert len(names) == 50
        assert [name != "" for name in names] == mask.astype(bool).tolist()
        assert encoder.tokenizer.convert_tokens_to_ids([n for n in names if n]) == (
            ids[mask == 1].tolist()
        )
    assert positions.by_row[0][:5] == ["[CLS]", "great", "film", "[SEP]", ""]


def test_pieces_that_were_cut_elsewhere_are_named_by_their_numbers(split, bert):
    folder = split(**by_position(bert))
    pieces = TextEncoder(str(bert), "cpu").pieces("great film")
    np.save(folder / "pieces50.npy", np.stack([np.stack(pieces)] * 4))
    positions = name_positions(folder, [1], 50)
    assert positions.by_row[1] == ["[CLS]", "great", "film", "[SEP]", *[""] * 46]


def test_words_stand_at_the_end(split):
    positions = name_positions(split("word"), [0, 2, 3], 50)
    assert positions.are_words
    assert positions.by_row[0] == [*[""] * 48, "great", "film"]
    assert positions.by_row[2] == [f"w{n}" for n in range(10, 60)]
    assert positions.by_row[3][-3:] == ["un", "", "believable,"]


def test_the_demos_words_are_named(demo):
    (first, *_) = read_segments(demo / "test")
    names = name_positions(demo / "test", [0], 50).by_row[0]
    words = [name for name in names if name][1:-1]
    assert "".join(words).replace("##", "") == first["sentence"].replace(" ", "").lower()


def damaged(folder, bert):
    (folder / "pieces50.npy").write_bytes(b"")


def too_short(folder, bert):
    np.save(folder / "pieces50.npy", np.zeros((1, 2, 50), np.int64))


def unlisted(folder, bert):
    (folder.parent / "dataset.json").unlink()


def without_table(folder, bert):
    (folder / "segments.csv").unlink()


def another_bert(folder, bert):
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        ({}, unlisted, "has no dataset.json"),
        ({}, without_table, "has no sentences"),
        ({"encoder": "nowhere/at/all"}, None, "the tokenizer of nowhere/at/all is not on this"),
        ({"encoder": "some/bert", "commit": "0" * 40}, None, "tokenizer of some/bert is not on"),
        ({"encoder": "as in a.pkl", "per": "none"}, None, "unknown: its features are as in a.pkl"),
        ({}, another_bert, "is no longer the BERT that encoded the text"),
        ({}, damaged, r"pieces50.npy is damaged, or no .npy array"),
        ({}, too_short, "pieces50.npy has too few segments, 1"),
    ],
)
def test_what_cannot_be_known_is_told(split, bert, tmp_path, text, change, message):
    copy = shutil.copytree(bert, tmp_path / "copy")
    folder = split(**{**by_position(copy), **text})
    if change is not None:
        change(folder, copy)
    with pytest.raises(InputError, match=message) as caught:
        name_positions(folder, [1], 50)
    assert "\n" not in str(caught.value)


def test_a_dataset_without_text_is_told(split):
    with pytest.raises(InputError, match="are unknown: its features are missing"):
        name_positions(split(), [0], 50)
