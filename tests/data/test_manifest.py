"""A dataset.json that is something else is told in one line, whatever it holds."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.manifest import MANIFEST, read_manifest
from system.errors import InputError

GOOD = {
    "made_from": {"dataset": "d", "scores": "mosei", "alignment": "word", "lengths": {"audio": 5}},
    "splits": {"train": {"segments": 3, "videos": 2}},
    "left_out": {"a reason": 1},
    "text": {"encoder": "b", "width": 8, "length": 50, "per": "word", "unknown_pieces": {"x": 0.5}},
    "bytes": {"train/visual50.npy": 7},
    "files": {"train/visual50.npy": {"name": "visual50.npy", "bytes": 7, "sample": "0"}},
}
KEY_PATHS = [
    *[(key,) for key in GOOD],
    *[(key, inner) for key, value in GOOD.items() for inner in value],
    ("splits", "train", "segments"),
    ("made_from", "lengths", "audio"),
    ("text", "unknown_pieces", "x"),
    ("files", "train/visual50.npy", "sample"),
]


def test_a_manifest_passes(tmp_path):
    for manifest in (GOOD, {**GOOD, "text": None}):
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
        assert read_manifest(tmp_path) == manifest


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(keys=st.sampled_from(KEY_PATHS), value=st.sampled_from([True, -1, [[1]], -0.5]))
def test_a_wrong_type_anywhere_is_told_in_one_line(tmp_path, keys, value):
    manifest = json.loads(json.dumps(GOOD))
    field = manifest
    for key in keys[:-1]:
        field = field[key]
    field[keys[-1]] = value
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    if keys[-1] == "name":  # which nobody reads
        return
    with pytest.raises(InputError, match=MANIFEST) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_long_value_is_quoted_in_part(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps({**GOOD, "bytes": "x" * 10_000}))
    with pytest.raises(InputError, match="bytes: 'xxx") as caught:
        read_manifest(tmp_path)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("count", ["segments", "videos"])
def test_a_split_without_its_counts_is_told(tmp_path, count):
    splits = {"train": {"segments": 3, "videos": 2}}
    del splits["train"][count]
    (tmp_path / MANIFEST).write_text(json.dumps({**GOOD, "splits": splits}))
    with pytest.raises(InputError, match=f"splits.train.{count} is missing"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", ["[" * 200_000, "[" + "1" * 10_001 + "]", "{", "\udcff"])
def test_what_json_cannot_read_is_told_in_one_line(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match="delete it"):
        read_manifest(tmp_path)


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(InputError, match="no regular file"):
        read_manifest(tmp_path)
