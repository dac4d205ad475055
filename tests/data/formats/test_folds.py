"""The standard folds, and folds files that are none."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from data.fetching.server import DATASETS
from data.formats.folds import read_folds
from system.errors import InputError

VIDEOS = {
    "mosei": {"train": 2249, "val": 300, "test": 678},
    "mosi": {"train": 52, "val": 10, "test": 31},
}


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_the_standard_folds_are_whole(name):
    folds = json.loads(DATASETS[name].folds.read_text())
    assert {split: len(videos) for split, videos in folds.items()} == VIDEOS[name]
    videos = [video for split in folds.values() for video in split]
    assert len(set(videos)) == len(videos)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_video_gets_its_split(name):
    path = DATASETS[name].folds
    split_of = read_folds(path)
    assert Counter(split_of.values()) == VIDEOS[name]
    for split, videos in json.loads(path.read_text()).items():
        assert {split_of[video] for video in videos} == {split}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No file .*folds.json; give"),
        (Path.mkdir, "folds.json is a folder, pipe"),
        (os.mkfifo, "folds.json is a folder, pipe"),
    ],
    ids=["nothing", "folder", "pipe"],
)
def test_what_is_no_file_is_refused(tmp_path, make, message):
    make(tmp_path / "folds.json")
    with pytest.raises(InputError, match=message):
        read_folds(tmp_path / "folds.json")


def test_a_video_given_twice_in_one_split_is_one_video(tmp_path):
    path = tmp_path / "folds.json"
    path.write_text(json.dumps({"train": ["a", "a"], "val": [], "test": ["b"]}))
    assert read_folds(path) == {"a": "train", "b": "test"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"is not JSON: .*; give {\"train\": \[video id, ...\], \"val\""),
        ('{"train": ["a"], "val"', "is not JSON"),
        ('{"train": ["a"], "val": [], "test": [], "val": ["b"]}', "'val' is there twice"),
        ("{}", "holds nothing; expected"),
        ("[]", "holds list; expected the keys train, val, test"),
        ("3", "holds int; expected"),
        ('{"train": [], "val": []}', "holds train, val; expected the keys train, val, test"),
        ('{"train": [], "valid": [], "test": []}', "holds train, valid, test; expected"),
        ('{"train": [], "val": [], "test": [], "none": []}', "holds .* none; expected"),
        ('{"train": "a", "val": [], "test": []}', "train is not a list of video ids"),
        ('{"train": [], "val": null, "test": []}', "val is not a list of video ids"),
        ('{"train": [], "val": [], "test": [1]}', "test is not a list of video ids"),
        ('{"train": ["a"], "val": [], "test": ["a"]}', "video a is in both train and test"),
    ],
)
def test_a_folds_file_that_is_none(tmp_path, content, message):
    path = tmp_path / "folds.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_folds(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folds_file_that_is_not_text(tmp_path):
    path = tmp_path / "folds.json"
    path.write_bytes(b"\x80PK\xff")
    with pytest.raises(InputError, match="is not JSON"):
        read_folds(path)
