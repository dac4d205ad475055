"""Compressed copies are what HDF5 itself would write."""

from __future__ import annotations

import h5py
import numpy as np

from benchmarks import csd_forms
from benchmarks.csd_forms import in_form, made_up
from data.fetching.server import MOSEI
from tests.csd_files import random_dataset, write_dataset


def test_a_compressed_copy_is_hdf5s_own(tmp_path):
    gzip = {"compression": "gzip", "compression_opts": 9}
    for folder, options in (("plain", {}), ("gzip", gzip)):
        (tmp_path / folder).mkdir()
        write_dataset(tmp_path / folder, random_dataset(), **options)
    name = MOSEI.sequences["audio"].name
    with (
        in_form(tmp_path / "plain", "gzip") as copies,
        h5py.File(copies / name) as copy,
        h5py.File(tmp_path / "gzip" / name) as own,
    ):
        root = next(iter(own))
        for key, entry in own[root]["data"].items():
            for kind, dataset in entry.items():
                copied = copy[root]["data"][key][kind]
                np.testing.assert_array_equal(copied, dataset)
                assert copied.chunks == dataset.chunks
                for places in dataset.iter_chunks():
                    place = tuple(axis.start for axis in places)
                    ours = copied.id.read_direct_chunk(place)
                    assert ours == dataset.id.read_direct_chunk(place)


def test_more_videos_than_the_folds_have_are_in_none(tmp_path, monkeypatch):
    monkeypatch.setattr(csd_forms, "read_folds", lambda _: {"a": "train", "b": "val", "c": "test"})
    made_up(tmp_path, 5)
    with h5py.File(tmp_path / MOSEI.sequences["labels"].name) as file:
        assert sorted(file[next(iter(file))]["data"]) == ["a", "b", "c", "none0", "none1"]
