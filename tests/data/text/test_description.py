"""What text features depend on: the content of a BERT's folder, not its path."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from data.text.bert import load_tokenizer
from data.text.description import bert_facts, is_same_text
from data.text.pieces import vocabulary_digest, vocabulary_text


@pytest.fixture
def bert(demo, tmp_path):
    return shutil.copytree(demo / "demo_bert", tmp_path / "bert")


def with_later_facts_as_in_earlier_versions(facts, vocabulary=True):
    earlier = {name: facts[name] for name in ("encoder", "weights")}
    return {**earlier, "vocabulary": facts["tokenizer"]} if vocabulary else earlier


def swap_pieces(folder):
    path = folder / "vocab.txt"
    *lines, one, other = path.read_text().splitlines()
    path.write_text("\n".join([*lines, other, one]) + "\n")


def change_setting(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_attention_heads": 1}))


def change_weights(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_same_folder_has_many_paths(bert, monkeypatch):
    monkeypatch.chdir(bert.parent)
    link = bert.parent / "link"
    link.symlink_to(bert)
    copy = shutil.copytree(bert, bert.parent / "copy")
    facts = bert_facts(str(bert))
    for path in (f"{bert}/", bert.name, f"./{bert.name}", link, copy):
        assert is_same_text(facts, bert_facts(os.fspath(path)))
    moved = bert_facts(str(bert.rename(bert.parent / "moved")))
    assert is_same_text(facts, moved)


@pytest.mark.parametrize("change", [swap_pieces, change_setting, change_weights])
def test_other_content_makes_other_text(bert, change):
    before = bert_facts(str(bert))
    change(bert)
    after = bert_facts(str(bert))
    assert not is_same_text(before, after)
    assert is_same_text(after, after)


def test_other_settings_of_a_file_do_not_count(bert):
    before = bert_facts(str(bert))
    path = bert / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "transformers_version": "9"}))
    assert is_same_text(before, bert_facts(str(bert)))


def test_what_earlier_versions_described(bert):
    facts = bert_facts(str(bert))
    copy = bert_facts(str(shutil.copytree(bert, bert.parent / "copy")))
    for vocabulary in (True, False):
        earlier = with_later_facts_as_in_earlier_versions(facts, vocabulary)
        assert is_same_text(earlier, facts)
        assert is_same_text(earlier, {**facts, "encoder": f"{bert}/"})
        assert is_same_text(earlier, copy) == vocabulary
    swap_pieces(bert)
    earlier = with_later_facts_as_in_earlier_versions(facts)
    assert not is_same_text(earlier, bert_facts(str(bert)))


def test_files_that_cannot_be_read_are_left_to_the_loading(bert):
    facts = bert_facts(str(bert))
    (bert / "vocab.txt").write_bytes(b"\xff")
    (bert / "config.json").unlink()
    damaged = bert_facts(str(bert))
    assert damaged == {name: facts[name] for name in ("encoder", "weights")}
    assert is_same_text(facts, damaged)
    assert not is_same_text(facts, {**damaged, "encoder": "elsewhere"})


def test_a_hub_name_is_only_itself(bert):
    facts = bert_facts("some/bert")
    assert facts == {"encoder": "some/bert", "weights": None}
    assert is_same_text({**facts, "vocabulary": "digest"}, facts)
    assert not is_same_text(bert_facts("other/bert"), facts)
    assert not is_same_text(bert_facts(str(bert)), facts)
    assert not is_same_text({"encoder": "some/bert"}, facts)  # a pickle's own text


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", " b ", "a", "", "é", "\x85c", "d\ne", "##f"]


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_the_vocabulary_is_the_tokenizers(bert, name):
    (bert / "vocab.txt").unlink()
    if name == "vocab.txt":
        content = "\n".join(PIECES)
    else:
        numbers = {piece: 2 * k for k, piece in enumerate([*PIECES, "\ud800", "b", "\rg"])}
        content = json.dumps({"model": {"type": "WordPiece", "vocab": numbers}})
    (bert / name).write_text(content, encoding="utf-8")
    tokenizer, _ = load_tokenizer(Path(bert))
    digest = vocabulary_digest(vocabulary_text(tokenizer.vocab))
    assert bert_facts(str(bert))["tokenizer"] == digest
