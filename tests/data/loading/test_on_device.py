"""Splits kept on a device."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.loading.batches import batches
from data.loading.on_device import DeviceSplit, has_room, place_splits
from data.loading.options import LoaderOptions
from data.loading.split import Split
from system.processes import Processes
from tests.cuda import DEVICES

CPU = LoaderOptions(torch.device("cpu"), batch_size=8, num_workers=0, verbose=False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("order", [None, np.random.default_rng(0).permutation(75)[:60]])
def test_batches_are_those_from_disk(small, order, rank, device, monkeypatch):
    monkeypatch.setattr("data.loading.on_device._ROWS_AT_ONCE", 10)
    loading = replace(CPU, processes=Processes(2, rank, rank), device=torch.device(device))
    split = Split(small / "train")
    expected = list(batches(split, order, loading))
    on_device = DeviceSplit(split, loading)
    assert (on_device.ids, on_device.folder) == (split.ids, split.folder)
    on_device_batches = batches(on_device, order, loading)
    for batch, expected_batch in zip(on_device_batches, expected, strict=True):
        assert batch.not_finite == expected_batch.not_finite
        for x, y in zip(batch[:4], expected_batch[:4], strict=True):
            assert x.device.type == device
            assert torch.equal(x.cpu(), y)


@pytest.mark.parametrize(("free", "fits"), [(10**12, True), (10**5, False)])
def test_splits_are_moved_where_they_fit(small, monkeypatch, free, fits):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr("data.loading.on_device.DeviceSplit", lambda split, options: "moved")
    splits = {name: Split(small / name) for name in ("train", "val")}
    placed = place_splits(splits, replace(CPU, device=torch.device("cuda")))
    assert placed == (dict.fromkeys(splits, "moved") if fits else splits)


class OfTwo(Processes):
    """Knows of another process, which has room or not, on the same device or not."""

    other_is_full, device = False, 1

    def highest(self, number):
        return max(number, int(self.other_is_full))

    def gather(self, value):
        return [value, (value[0], self.device)]

    def broadcast(self, value):
        return value


def test_splits_are_moved_where_they_fit_in_every_process(small, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))
    monkeypatch.setattr(OfTwo, "other_is_full", True)
    options = replace(CPU, device=torch.device("cuda"), processes=OfTwo(2, 0, 0))
    assert not has_room([Split(small / "val")], options)


@pytest.mark.parametrize(("device", "fits"), [(1, True), (0, False)])
def test_processes_that_share_a_device_share_its_room(small, monkeypatch, device, fits):
    split = Split(small / "val")
    needed = sum(len(split) * math.prod(shape) * 4 for shape in split.shapes)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * needed, 10**12))
    monkeypatch.setattr(OfTwo, "device", device)
    options = replace(CPU, device=torch.device("cuda:0"), processes=OfTwo(2, 0, 0))
    assert has_room([split], options) == fits


def test_what_an_earlier_training_kept_counts_as_free(small, monkeypatch):
    free = iter([0, 10**12])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (next(free), 10**12))
    assert has_room([Split(small / "val")], replace(CPU, device=torch.device("cuda")))


def test_on_a_cpu_nothing_is_moved(small):
    splits = {"val": Split(small / "val")}
    assert place_splits(splits, CPU) == splits
