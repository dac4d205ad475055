"""The made-up CMU-MOSEI: whole, repeatable, and no modality tells everything."""

from __future__ import annotations

import hashlib
import os

import h5py
import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data.fetching import demo as module
from data.fetching.demo import DEMO, write_demo
from data.fetching.server import MOSEI
from data.formats.csd import ComputationalSequence, check_csd
from data.formats.folds import read_folds
from data.layout import SPLITS, read_segments
from system.errors import InputError

VIDEOS = {"train": 40, "val": 8, "test": 12}
CSD_FILES = sorted(source.name for source in MOSEI.sequences.values())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A demo's folder; do not write into it."""
    datadir = tmp_path_factory.mktemp("demo")
    write_demo(datadir)
    return datadir


def snapshot(folder):
    """Hash every file in `folder`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def traces(folder):
    """Tell each file's inode and time of change in `folder`: any writing changes them."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


# ---------------------------------------------------------------- what is written


def test_the_files_are_named_and_shaped_as_the_real_ones(written):
    assert sorted(path.name for path in (written / "csd").iterdir()) == CSD_FILES
    for kind, source in MOSEI.sequences.items():
        path = written / "csd" / source.name
        check_csd(path)
        with ComputationalSequence(path, kind == "words") as sequence:
            assert len(sequence.videos) == sum(VIDEOS.values())
            for video in sequence.videos:
                intervals, features = sequence.read_unsorted(video)
                assert features.shape == (len(intervals), source.width)
                assert (intervals[:, 0] < intervals[:, 1]).all()
        with h5py.File(path) as file:
            assert set(file[path.stem]) == {"data", "metadata"}


def test_the_videos_are_the_standard_folds_own(written):
    split_of = read_folds(MOSEI.folds)
    for kind, source in MOSEI.sequences.items():
        with ComputationalSequence(written / "csd" / source.name, kind == "words") as sequence:
            splits = [split_of[video] for video in sequence.videos]
        assert {split: splits.count(split) for split in SPLITS} == VIDEOS


def test_labels_and_words_are_as_the_real_ones(written):
    folder = written / "csd"
    with ComputationalSequence(folder / MOSEI.sequences["labels"].name) as labels:
        values = np.concatenate([labels.read_unsorted(video)[1] for video in labels.videos])
    thirds = values[:, 0] * 3
    np.testing.assert_allclose(thirds, thirds.round(), atol=1e-5)
    assert np.abs(values[:, 0]).max() <= 3
    assert {-1, 0, 1} <= set(np.sign(values[:, 0]))
    assert values[:, 1:].min() >= 0
    with ComputationalSequence(folder / MOSEI.sequences["words"].name, holds_text=True) as words:
        spoken = np.concatenate([words.read_unsorted(video)[1] for video in words.videos])
    assert {b"sp", b"great", b"the"} <= set(spoken[:, 0])
    with ComputationalSequence(folder / MOSEI.sequences["audio"].name) as audio:
        rows = np.concatenate([audio.read_unsorted(video)[1] for video in audio.videos])
    assert np.isneginf(rows).any()
    assert not np.isnan(rows).any()


def test_all_of_it_comes_out_of_the_preparation(demo):
    split_of = read_folds(MOSEI.folds)
    for split, count in VIDEOS.items():
        rows = read_segments(demo / split)
        assert len({row["video"] for row in rows}) == count
        assert {split_of[row["video"]] for row in rows} == {split}


def test_its_bert_knows_every_word(demo):
    from data.text.bert import load_bert

    tokenizer, _ = load_bert(write_demo(demo))
    words = {
        word
        for split in SPLITS
        for row in read_segments(demo / split)
        for word in row["sentence"].split()
    }
    assert words <= set(tokenizer.vocab)


# ---------------------------------------------------------------- when it is written


def test_a_seed_gives_the_same_bytes(written, tmp_path):
    assert write_demo(tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "demo_bert"
    assert snapshot(tmp_path / "new" / "folder") == snapshot(written)


def test_another_seed_gives_others(written, tmp_path):
    write_demo(tmp_path, seed=1)
    first, second = snapshot(written), snapshot(tmp_path)
    assert set(first) == set(second)
    assert {name for name in first if first[name] == second[name]} == {
        "demo_bert/config.json",
        "demo_bert/vocab.txt",
    }


def test_a_demo_that_is_there_stays(tmp_path):
    bert = write_demo(tmp_path)
    before = traces(tmp_path)
    assert write_demo(tmp_path, seed=1) == bert
    assert traces(tmp_path) == before


@pytest.mark.parametrize("name", CSD_FILES)
def test_a_file_that_is_lost_is_written_again(written, tmp_path, name):
    write_demo(tmp_path)
    (tmp_path / "csd" / name).unlink()
    write_demo(tmp_path)
    assert snapshot(tmp_path) == snapshot(written)


@pytest.mark.parametrize("name", CSD_FILES)
def test_files_of_somebody_else_are_not_overwritten(tmp_path, name):
    (tmp_path / "csd").mkdir()
    (tmp_path / "csd" / name).write_bytes(b"downloaded over hours")
    before = traces(tmp_path)
    with pytest.raises(InputError, match="another --datadir") as caught:
        write_demo(tmp_path)
    assert str(tmp_path / "csd") in str(caught.value)
    assert traces(tmp_path) == before


@pytest.mark.parametrize("kind", ["pipe", "large"])
def test_a_pipe_and_a_large_file_are_not_the_demos(tmp_path, kind):
    (tmp_path / "csd").mkdir()
    path = tmp_path / "csd" / CSD_FILES[0]
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text(DEMO.title)
        os.truncate(path, 2**26)  # with a hole: it takes no room on the disk
    with pytest.raises(InputError, match="not the demo's"):
        write_demo(tmp_path)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("videos", [0, 30])
def test_an_interrupted_writing_is_done_again(written, tmp_path, monkeypatch, videos):
    entries = 0
    draw = module._video

    def interrupted(*arguments):
        nonlocal entries
        if entries == videos:
            raise Killed
        entries += 1
        return draw(*arguments)

    monkeypatch.setattr(module, "_video", interrupted)
    with pytest.raises(Killed):
        write_demo(tmp_path)
    monkeypatch.undo()
    write_demo(tmp_path)
    assert snapshot(tmp_path) == snapshot(written)


# ---------------------------------------------------------------- what it tells


@pytest.fixture(scope="module")
def predictors(demo):
    """Each split's predictors by modality, and its sentiments."""
    words = CountVectorizer().fit(sentences(demo / "train"))
    splits = {}
    for split in ("train", "test"):
        folder = demo / split
        splits[split] = {
            "words": words.transform(sentences(folder)).toarray(),
            "visual": means(np.load(folder / "visual50.npy")),
            "audio": means(np.load(folder / "audio50.npy")),
            "sentiment": np.load(folder / "label50.npy")[:, 0, 0],
        }
    return splits


def sentences(folder):
    return [row["sentence"] for row in read_segments(folder)]


def means(rows):
    """Average each segment's rows, less the zeros in front."""
    rows = np.where(np.isfinite(rows), rows, 0)
    counts = (rows != 0).any(axis=2).sum(axis=1)
    return rows.sum(axis=1) / counts[:, None]


def correlation(predictors, *modalities):
    """Learn the sentiment on train, and correlate the predictions on test with it."""
    train, test = (
        np.hstack([predictors[split][kind] for kind in modalities]) for split in ("train", "test")
    )
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 11)))
    ridge.fit(train, predictors["train"]["sentiment"])
    return np.corrcoef(ridge.predict(test), predictors["test"]["sentiment"])[0, 1]


@pytest.mark.parametrize("modality", ["words", "visual", "audio"])
def test_each_modality_tells_the_sentiment_and_all_tell_more(predictors, modality):
    alone = correlation(predictors, modality)
    together = correlation(predictors, "words", "visual", "audio")
    assert 0.2 < alone < together - 0.05
    others = {"words", "visual", "audio"} - {modality}
    assert correlation(predictors, *sorted(others)) < together
