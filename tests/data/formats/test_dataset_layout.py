"""Datasets found by their headers' bytes: the same values, and what is odd is left to HDF5."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from h5py import h5o

from data.formats import chunk_index
from data.formats.csd import ComputationalSequence
from system.errors import InputError
from tests.csd_files import all_features, write_csd

ROWS = 3000
INTERVALS = np.stack([np.arange(ROWS), np.arange(ROWS) + 1.0], axis=1)
FEATURES = np.random.default_rng(0).normal(size=(2, ROWS, 7)).astype("f4")
VIDEOS = [f"video {number}" for number in range(2)]
GZIP = {"compression": "gzip"}


def written(path, features_options, **file_options):
    with h5py.File(path, "w", **file_options) as file:
        for video, features in zip(VIDEOS, FEATURES, strict=True):
            group = file.create_group(f"sequence/data/{video}")
            group.create_dataset("intervals", data=INTERVALS)
            group.create_dataset("features", data=features, **features_options)
    return path


def read_all(path):
    with ComputationalSequence(path) as sequence:
        return np.stack([all_features(sequence.read(video)) for video in VIDEOS])


@pytest.fixture
def opened(monkeypatch):
    """Note what the library opens."""
    names, open_object = [], h5o.open

    def note(group, name, **options):
        names.append(name.decode())
        return open_object(group, name, **options)

    monkeypatch.setattr(h5o, "open", note)
    return names


@pytest.mark.parametrize("userblock", [0, 512])
@pytest.mark.parametrize(
    ("options", "is_usual"),
    [
        ({}, True),
        ({"chunks": (10, 2)}, True),  # 1,200 of them: an index of several levels
        ({"chunks": (10, 2), **GZIP}, True),
        ({"chunks": (7, 7), "shuffle": True, **GZIP}, True),
        ({"chunks": (10, 2), "fletcher32": True}, False),
        ({"chunks": (10, 2), "maxshape": (None, None)}, True),
        ({"dtype": ">f8", **GZIP}, True),
    ],
)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_the_values_are_the_librarys(tmp_path, opened, libver, userblock, options, is_usual):
    path = written(tmp_path / "a.csd", options, libver=libver, userblock_size=userblock)
    np.testing.assert_array_equal(read_all(path), FEATURES)
    assert (f"{VIDEOS[1]}/features" in opened) == (libver == "latest" or not is_usual)


def test_a_type_that_stands_elsewhere_is_the_librarys(tmp_path, opened):
    with h5py.File(written(tmp_path / "a.csd", {}), "a") as file:
        file["sequence/metadata"] = np.dtype("f4")
        for video, features in zip(VIDEOS, FEATURES, strict=True):
            group = file[f"sequence/data/{video}"]
            del group["features"]
            group.create_dataset("features", data=features, dtype=file["sequence/metadata"])
    np.testing.assert_array_equal(read_all(tmp_path / "a.csd"), FEATURES)
    assert f"{VIDEOS[1]}/features" in opened


def test_values_in_another_file_are_refused_after_others_of_that_type(tmp_path):
    (tmp_path / "secret").write_bytes(FEATURES[1].tobytes())
    with h5py.File(written(tmp_path / "a.csd", {}), "a") as file:
        group = file[f"sequence/data/{VIDEOS[1]}"]
        del group["features"]
        outside = [(tmp_path / "secret", 0, FEATURES[1].nbytes)]
        group.create_dataset("features", FEATURES[1].shape, "f4", external=outside)
    with pytest.raises(InputError, match="external storage"):
        read_all(tmp_path / "a.csd")


@pytest.mark.parametrize(
    "change",
    [
        lambda node: b"TREF" + node[4:],
        lambda node: node[:4] + b"\0" + node[5:],  # a group's index
        lambda node: node[:5] + b"\1" + node[6:],  # chunks for nodes
        lambda node: node[:6] + b"\xff\xff" + node[8:],  # more than there is
        lambda node: node[:6] + b"\0\0" + node[8:],
    ],
    ids="signature kind level many none".split(),
)
def test_a_damaged_index_is_told(tmp_path, change):
    path = written(tmp_path / "a.csd", {"chunks": (ROWS, 7), **GZIP})
    content = path.read_bytes()
    with h5py.File(path) as file:
        chunk = file[f"sequence/data/{VIDEOS[1]}/features"].id.get_chunk_info(0).byte_offset
    node = content.rindex(b"TREE", 0, content.index(chunk.to_bytes(8, "little")))
    path.write_bytes(content[:node] + change(content[node:]))
    with pytest.raises(InputError, match=r"a\.csd.*damaged"):
        read_all(path)


def test_an_index_that_leads_to_itself_is_told(tmp_path):
    path = written(tmp_path / "a.csd", {"chunks": (ROWS, 7), **GZIP})
    content = path.read_bytes()
    with h5py.File(path) as file:
        chunk = file[f"sequence/data/{VIDEOS[1]}/features"].id.get_chunk_info(0).byte_offset
    address = content.index(chunk.to_bytes(8, "little"))
    node = content.rindex(b"TREE", 0, address)
    changed = bytearray(content)
    changed[node + 5] = 1
    changed[address : address + 8] = node.to_bytes(8, "little")
    path.write_bytes(changed)
    with pytest.raises(InputError, match="damaged"):
        read_all(path)


def test_nodes_that_hold_more_than_usual_are_read_whole(tmp_path, opened, monkeypatch):
    path = written(tmp_path / "a.csd", {"chunks": (200, 3), **GZIP})
    monkeypatch.setattr(chunk_index, "_NODE_BYTES", 64)  # as if this file's were larger
    np.testing.assert_array_equal(read_all(path), FEATURES)


def test_an_index_that_kept_its_levels_when_its_chunks_were_deleted_is_read(tmp_path):
    path = written(tmp_path / "a.csd", {"chunks": (1, 7), "maxshape": (None, 7)})
    with h5py.File(path, "a") as file:
        for video in VIDEOS:
            group = file[f"sequence/data/{video}"]
            group["features"].resize(9000, axis=0)
            group["features"][ROWS:] = 1
            group["features"].resize(1, axis=0)
            del group["intervals"]
            group["intervals"] = INTERVALS[:1]
    np.testing.assert_array_equal(read_all(path), FEATURES[:, :1])


def test_an_index_of_far_more_entries_than_chunks_is_told(tmp_path):
    path = written(tmp_path / "a.csd", {"chunks": (200, 3), **GZIP})
    descriptor = os.open(path, os.O_RDONLY)
    root = path.read_bytes().rindex(b"TREE\1\0")
    assert chunk_index.index_in_tree(descriptor, 0, root, 2, count=45)
    with pytest.raises(OSError, match="damaged"):
        chunk_index.index_in_tree(descriptor, 0, root, 2, count=2)
    os.close(descriptor)


def test_the_first_of_a_type_decides_only_for_its_like(tmp_path):
    entries = {"a": (INTERVALS, FEATURES[0]), "b": (INTERVALS, FEATURES[1].astype("f8"))}
    write_csd(tmp_path / "a.csd", entries)
    with ComputationalSequence(tmp_path / "a.csd") as sequence:
        assert all_features(sequence.read("b")).dtype == np.float64
        np.testing.assert_array_equal(all_features(sequence.read("b")), FEATURES[1])
