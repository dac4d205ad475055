"""Compressed copies equal what HDF5 itself writes."""

from __future__ import annotations

import h5py
import numpy as np

from benchmarks import csd_forms
from benchmarks.csd_forms import in_form, write_made_up
from data.fetching.server import MOSEI
from tests.csd_files import random_dataset, write_dataset


def test_a_compressed_copy_equals_what_hdf5_writes(tmp_path):
    gzip = {"compression": "gzip", "compression_opts": 9}
    for folder, options in (("plain", {}), ("gzip", gzip)):
        (tmp_path / folder).mkdir()
        write_dataset(tmp_path / folder, random_dataset(), **options)
    name = MOSEI.sequences["audio"].name
    with (
        in_form(tmp_path / "plain", "gzip") as copies,
        h5py.File(copies / name) as copy,
        h5py.File(tmp_path / "gzip" / name) as expected,
    ):
        root = next(iter(expected))
        for key, entry in expected[root]["data"].items():
            for kind, dataset in entry.items():
                copied = copy[root]["data"][key][kind]
                np.testing.assert_array_equal(copied, dataset)
                assert copied.chunks == dataset.chunks
                for slices in dataset.iter_chunks():
                    offset = tuple(axis.start for axis in slices)
                    chunk = copied.id.read_direct_chunk(offset)
                    assert chunk == dataset.id.read_direct_chunk(offset)


def test_more_videos_than_the_folds_have_are_in_none(tmp_path, monkeypatch):
    monkeypatch.setattr(csd_forms, "read_folds", lambda _: {"a": "train", "b": "val", "c": "test"})
    write_made_up(tmp_path, 5)
    with h5py.File(tmp_path / MOSEI.sequences["labels"].name) as file:
        assert sorted(file[next(iter(file))]["data"]) == ["a", "b", "c", "none0", "none1"]
