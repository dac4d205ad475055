"""Word pieces in a prepared dataset: beside every text that a BERT encoded, and added later."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import numpy as np
import pytest

from data.checking.check import check_dataset
from data.layout import SPLITS, alignment_folder, read_segments
from data.preparing.pickle_source import PickleSource
from data.preparing.pipeline import prepare
from data.preparing.plan import Arrays, decide
from data.preparing.printing import plan_rows
from data.preparing.request import Request, TextRequest
from data.text import encoder as text
from data.text.bert import load_tokenizer
from data.text.pieces import PieceCutter, vocabulary_digest, vocabulary_text
from system.errors import InputError
from tests.csd_files import random_dataset, write_dataset
from tests.data.preparing.test_sources import community_split
from tests.preparation import SINGLE_PROCESS, prepare_killed_at, request

PIECES = "pieces50.npy"


@pytest.fixture(scope="module")
def bert(demo):
    return str(demo / "demo_bert")


@pytest.fixture
def datadir(tmp_path):
    write_dataset(tmp_path / "csd", random_dataset())
    return tmp_path


def cutter(bert, by_word=False):
    tokenizer, config = load_tokenizer(Path(bert))
    return PieceCutter(tokenizer, config.max_position_embeddings, by_word)


def check_pieces(folder, bert, by_word=False):
    for split in SPLITS:
        sentences = [row["sentence"] for row in read_segments(folder / split)]
        expected = cutter(bert, by_word).cut(sentences)
        np.testing.assert_array_equal(np.load(folder / split / PIECES), expected)
        size = (folder / split / PIECES).stat().st_size
        assert manifest_of(folder)["bytes"][f"{split}/{PIECES}"] == size


def manifest_of(folder):
    return json.loads((folder / "dataset.json").read_text())


def forget_pieces(folder):
    """Make a dataset as an earlier version left it."""
    manifest = manifest_of(folder)
    del manifest["text"]["vocabulary"]
    for split in SPLITS:
        (folder / split / PIECES).unlink()
        del manifest["bytes"][f"{split}/{PIECES}"]
    (folder / "dataset.json").write_text(json.dumps(manifest))


def traces(folder):
    """Tell each file's inode and time of change, but that of the pieces."""
    paths = (path for split in SPLITS for path in (folder / split).iterdir())
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in paths if p.name != PIECES}


@pytest.mark.parametrize("alignment", ["segment", "word"])
def test_every_text_that_a_bert_encoded_has_its_pieces(datadir, bert, alignment):
    asked = request(datadir, bert, alignment=alignment)
    prepare(asked, SINGLE_PROCESS)
    check_pieces(asked.folder, bert, by_word=alignment == "word")
    tokenizer, _ = load_tokenizer(Path(bert))
    digest = vocabulary_digest(vocabulary_text(tokenizer.vocab))
    assert manifest_of(asked.folder)["text"]["vocabulary"] == digest
    assert check_dataset(asked.folder).problems == []


@pytest.mark.parametrize("alignment", ["segment", "word"])
def test_they_are_added_and_nothing_else_is_made(datadir, bert, alignment, monkeypatch):
    asked = request(datadir, bert, alignment=alignment)
    prepare(asked, SINGLE_PROCESS)
    before, manifest = traces(asked.folder), manifest_of(asked.folder)
    forget_pieces(asked.folder)
    rows = {row[0].rpartition("/")[2]: row[1:] for row in plan_rows(decide(asked))}
    assert rows["val: word pieces"][0] == "add"
    assert rows["val: text"][0] == rows["val: arrays"][0] == "keep"
    monkeypatch.setattr(text, "TextEncoder", None)
    prepare(asked, SINGLE_PROCESS)
    assert traces(asked.folder) == before
    check_pieces(asked.folder, bert, by_word=alignment == "word")
    new_manifest = manifest_of(asked.folder)
    assert {**new_manifest, "made_at": ""} == {**manifest, "made_at": ""}
    assert decide(asked).is_done


def test_a_damaged_one_is_made_again(datadir, bert):
    asked = request(datadir, bert)
    prepare(asked, SINGLE_PROCESS)
    path = datadir / "val" / PIECES
    path.write_bytes(path.read_bytes()[:-3])
    assert any(PIECES in problem.line for problem in check_dataset(datadir).problems)
    prepare(asked, SINGLE_PROCESS)
    check_pieces(datadir, bert)


def test_none_at_all_are_told_by_the_check(datadir, bert):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    path = datadir / "val" / PIECES
    np.save(path, np.load(path)[:0])
    (problem,) = check_dataset(datadir).problems
    assert f"{path}: 0 segments in val, expected 3" in problem.line


def test_those_of_another_split_are_told_by_the_check(datadir, bert):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    shutil.copy(datadir / "train" / PIECES, datadir / "val" / PIECES)
    (problem,) = check_dataset(datadir).problems
    assert f"val/{PIECES}: 9 segments in val, expected 3" in problem.line


@pytest.mark.parametrize(
    ("row", "number", "message"),
    [
        (0, 10_000_001, "id 10000001, expected 0 to 10,000,000"),
        (0, -1, "id -1, expected 0 to 10,000,000"),
        (1, 7, "mask value 7, expected 0 to 1"),
        (2, 51, "word position 51, expected 0 to 50"),
    ],
)
def test_numbers_that_no_text_encoder_takes_are_told_by_the_check(
    datadir, bert, row, number, message
):
    asked = request(datadir, bert, alignment="word")
    prepare(asked, SINGLE_PROCESS)
    path = asked.folder / "val" / PIECES
    pieces = np.load(path).astype(np.int64)
    pieces[-1, row, 1] = number
    np.save(path, pieces)
    (problem,) = check_dataset(asked.folder).problems
    assert f"{path}: {message}" in problem.line
    np.save(path, pieces[:, :1])
    (problem,) = check_dataset(asked.folder).problems
    assert (
        f"{path}: 1 rows of {pieces.shape[2]} word pieces a text, expected 2 (3 by" in problem.line
    )


def test_another_bert_brings_its_own(datadir, bert, tmp_path_factory):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    other = tmp_path_factory.mktemp("other") / "bert"
    shutil.copytree(bert, other)
    lines = (other / "vocab.txt").read_text().splitlines()
    lines[-1], lines[-2] = lines[-2], lines[-1]
    (other / "vocab.txt").write_text("\n".join(lines) + "\n")
    prepare(request(datadir, str(other)), SINGLE_PROCESS)
    check_pieces(datadir, str(other))


def test_they_stay_where_new_arrays_have_the_same_sentences(datadir, bert):
    asked = request(datadir, bert, alignment="unaligned", lengths=(7, 9))
    prepare(asked, SINGLE_PROCESS)
    prepare(request(datadir, None, alignment="unaligned", lengths=(8, 9)), SINGLE_PROCESS)
    check_pieces(alignment_folder(datadir, "unaligned"), bert)


def test_without_a_bert_there_are_none(datadir):
    prepare(request(datadir, None), SINGLE_PROCESS)
    assert not list(datadir.glob(f"*/{PIECES}"))
    assert decide(request(datadir, None)).is_done


COMMIT = "c" * 40


@pytest.fixture
def from_hub(datadir, bert, monkeypatch, tmp_path):
    """A dataset without pieces by the BERT of a name; returns what is asked of the hub."""
    prepare(request(datadir, bert), SINGLE_PROCESS)
    forget_pieces(datadir)
    manifest = manifest_of(datadir)
    manifest["text"] |= {"encoder": "somebody/bert", "weights": None, "commit": COMMIT}
    (datadir / "dataset.json").write_text(json.dumps(manifest))
    asked = []

    def download(name, file, revision=None):
        asked.append((name, file, revision))
        return str(shutil.copy(Path(bert) / file, tmp_path / COMMIT / file))

    (tmp_path / COMMIT).mkdir()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_they_are_cut_by_the_commit_that_encoded_the_text(datadir, bert, from_hub):
    prepare(request(datadir, "somebody/bert"), SINGLE_PROCESS)
    files = [("somebody/bert", file, COMMIT) for file in ("config.json", "vocab.txt")]
    assert from_hub == files  # without weights
    check_pieces(datadir, bert)


def test_all_stays_where_their_bert_cannot_be_had(datadir, from_hub, monkeypatch, capsys):
    before, manifest = traces(datadir), manifest_of(datadir)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", Mock(side_effect=OSError("no route")))
    assert prepare(request(datadir, "somebody/bert"), SINGLE_PROCESS) == manifest
    assert manifest_of(datadir) == manifest
    assert traces(datadir) == before
    warning = capsys.readouterr().err
    assert "no word pieces are added, which --finetune_bert needs: BERT 'somebody/bert'" in warning


# ---------------------------------------------------------------- pieces in place of sentences


@pytest.fixture
def of_pieces(tmp_path, bert):
    """A request for a pickle that has word pieces and no sentences."""
    content = {}
    for split, n in {"train": 5, "valid": 3, "test": 4}.items():
        ids = np.tile([2, 5, 6, 3, 0, 0], (n, 1))
        ids[:, 1] += np.arange(n)
        pieces = np.stack([ids, ids != 0, 0 * ids], axis=1)
        content[split] = community_split(n, text_bert=pieces)
        del content[split]["raw_text"], content[split]["text"]
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content))
    source = PickleSource(tmp_path / "file.pkl", uses_own_text=True)
    return Request(tmp_path, "segment", source, TextRequest(bert, "float32", "cpu"))


def damage(path, kind):
    if kind == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])


def contents(folder):
    return {path: path.read_bytes() for split in SPLITS for path in (folder / split).iterdir()}


@pytest.mark.parametrize("kind", ["lost", "cut"])
def test_the_sources_own_are_taken_from_it_again_before_they_are_encoded(of_pieces, kind):
    without_text = replace(of_pieces, text=None)
    prepare(without_text, SINGLE_PROCESS)
    damage(of_pieces.datadir / "train" / PIECES, kind)
    assert decide(without_text).arrays is decide(of_pieces).arrays is Arrays.MAKE
    prepare(of_pieces, SINGLE_PROCESS)
    made = contents(of_pieces.datadir)
    prepare(replace(of_pieces, is_forced=True), SINGLE_PROCESS)
    assert contents(of_pieces.datadir) == made
    features = np.load(of_pieces.datadir / "train" / "bert50.npy")
    assert len(np.unique(features, axis=0)) == 5


@pytest.mark.parametrize("kind", ["lost", "cut"])
def test_the_sources_own_that_a_kill_and_a_fault_took_are_taken_again(of_pieces, kind):
    asked = replace(of_pieces, text=None)
    prepare(asked, SINGLE_PROCESS)
    whole = contents(asked.folder)
    for split in SPLITS:
        shutil.rmtree(asked.folder / split)
    (asked.folder / "dataset.json").unlink()
    prepare_killed_at(asked, "train/visual50.npy")
    damage(asked.folder / ".preparing" / "train" / PIECES, kind)
    prepare(asked, SINGLE_PROCESS)
    assert contents(asked.folder) == whole


@pytest.mark.parametrize("kind", ["lost", "cut"])
@pytest.mark.parametrize("with_bert", [True, False])
def test_the_sources_own_are_taken_from_it_again_and_the_text_stays(
    of_pieces, kind, with_bert, monkeypatch
):
    prepare(of_pieces, SINGLE_PROCESS)
    expected = contents(of_pieces.datadir)
    damage(of_pieces.datadir / "train" / PIECES, kind)
    monkeypatch.setattr(text.TextEncoder, "start", None)
    prepare(of_pieces if with_bert else replace(of_pieces, text=None), SINGLE_PROCESS)
    assert contents(of_pieces.datadir) == expected
    assert decide(of_pieces).is_done


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pieces: pieces.reshape(-1, 2, 3), r"shape \(10, 2, 3\), expected \(5, 2, length\)"),
        (lambda pieces: pieces.reshape(5, 1, -1), r"shape \(5, 1, 12\), expected \(5, 2, length"),
        (lambda pieces: pieces.astype(float), "holds float64 of shape .*, expected whole numbers"),
    ],
)
def test_the_sources_own_that_are_wrong_are_told_and_made_again(of_pieces, change, message):
    without_text = replace(of_pieces, text=None)
    prepare(without_text, SINGLE_PROCESS)
    path = of_pieces.datadir / "train" / PIECES
    pieces, size = np.load(path), path.stat().st_size
    np.save(path, change(pieces))
    assert path.stat().st_size == size  # so that only reading it tells
    with pytest.raises(InputError, match=message):
        prepare(of_pieces, SINGLE_PROCESS)
    prepare(replace(without_text, is_forced=True), SINGLE_PROCESS)
    np.testing.assert_array_equal(np.load(path), pieces)


def test_wrong_ones_in_place_do_not_stop_others_from_replacing_them(of_pieces):
    prepare(of_pieces, SINGLE_PROCESS)
    path = of_pieces.datadir / "train" / PIECES
    pieces = np.load(path)
    np.save(path, pieces.reshape(-1, 2, 3))
    prepare(replace(of_pieces, text=None, is_forced=True), SINGLE_PROCESS)
    np.testing.assert_array_equal(np.load(path), pieces)
