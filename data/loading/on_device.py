"""Splits held on the device where they fit: a batch is then a gather, and nothing is loaded."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from data.loading.split import Batch, LoaderOptions, Rows, Split
from system.progress import progress

_SHARE = 0.5  # of the device's free memory; the rest is for the model
_ROWS_AT_ONCE = 256


class DeviceSplit:
    """A split's segments on a device, read once."""

    def __init__(self, split: Split, loading: LoaderOptions) -> None:
        segments, device = len(split), loading.device
        self._inputs = [torch.empty(segments, *shape, device=device) for shape in split.shapes]
        self._labels = torch.from_numpy(split.labels)[:, None].to(device)
        self._not_finite = np.zeros(segments, dtype=np.int64)
        bar = progress(
            range(0, segments, _ROWS_AT_ONCE),
            desc=f"Loading {split.folder.name}",
            unit="part",
            leave=False,
            disable=not loading.verbose,
        )
        for begin in bar:
            rows = slice(begin, min(begin + _ROWS_AT_ONCE, segments))
            tensors, self._not_finite[rows] = split.read(range(rows.start, rows.stop))
            for whole, part in zip(self._inputs, tensors, strict=True):
                whole[rows] = part

    def batches(self, order: Rows, loading: LoaderOptions) -> _DeviceBatches:
        """Iterate as `dataset.batches` does, over batches that lie on the device."""
        return _DeviceBatches(self, order, loading)

    def gather(self, rows: Rows, places: Tensor) -> Batch:
        """Return the segments `rows`; `places` are the same on the device."""
        tensors = (x[places] for x in (*self._inputs, self._labels))
        return Batch(*tensors, int(self._not_finite[rows].sum()))


class _DeviceBatches:
    def __init__(self, split: DeviceSplit, order: Rows, loading: LoaderOptions) -> None:
        self._split, self._loading = split, loading
        self._order = np.asarray(order)

    def __len__(self) -> int:
        return len(self._loading.rows(self._order))

    def __iter__(self) -> Iterator[Batch]:
        share, order = self._loading.share, self._order
        places = torch.from_numpy(order).to(self._loading.device)  # once, not batch by batch
        pairs = zip(self._loading.rows(order), self._loading.rows(places), strict=True)
        for rows, its_places in pairs:
            yield self._split.gather(share(rows), share(its_places))


def load_onto_device(splits: Iterable[Split], loading: LoaderOptions) -> None:
    """Hold the splits on a CUDA device with room for them all; elsewhere do nothing.

    Raises InputError when one cannot be read.
    """
    splits = list(splits)
    if loading.device.type != "cuda":
        return
    gc.collect()
    torch.cuda.empty_cache()  # what an earlier training held counts as free
    free, _ = torch.cuda.mem_get_info(loading.device)
    needed = sum(len(split) * math.prod(shape) * 4 for split in splits for shape in split.shapes)
    if needed <= _SHARE * free:
        for split in splits:
            split.on_device = DeviceSplit(split, loading)
