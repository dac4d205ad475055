"""Splits held on the device, if they fit: a batch is then a gather, without loading files."""

from __future__ import annotations

import gc
import math
import platform
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch

from data.loading.options import LoaderOptions
from data.loading.split import Batch, Split
from data.npy import Rows
from system.progress import progress
from system.threads import in_parallel

_MAX_SHARE = 0.5  # of the device's free memory; the rest is for the model
_ROWS_AT_ONCE = 256
_THREADS = 4  # that read files: one core cannot copy as fast as the memory allows


class DeviceSplit:
    """A split that is read once and held on a device."""

    def __init__(self, split: Split, options: LoaderOptions) -> None:
        self.folder, self.ids, self.labels = split.folder, split.ids, split.labels
        self.shapes = split.shapes
        segments, device = len(split), options.device
        self._inputs = [torch.empty(segments, *shape, device=device) for shape in split.shapes]
        self._labels = torch.from_numpy(split.labels).to(device)
        self._not_finite = np.zeros(segments, dtype=np.int64)
        parts = [(first,) for first in range(0, segments, _ROWS_AT_ONCE)]
        with progress(
            total=len(parts),
            desc=f"Loading {split.folder.name}",
            unit="part",
            leave=False,
            disable=not options.verbose,
        ) as bar:

            def load(first: int) -> None:
                rows = slice(first, min(first + _ROWS_AT_ONCE, segments))
                tensors, self._not_finite[rows] = split.read(range(rows.start, rows.stop))
                for whole, part in zip(self._inputs, tensors, strict=True):
                    whole[rows] = part
                bar.update()

            in_parallel(load, parts, _THREADS)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Rows, options: LoaderOptions) -> Iterator[Batch]:
        """Yield this process's share of each batch of `order`; batches are on the device."""
        order = np.asarray(order)
        on_device = torch.from_numpy(order).to(options.device)  # once, not batch by batch
        for rows, index in zip(options.rows(order), options.rows(on_device), strict=True):
            rows, index = options.share(rows), options.share(index)
            visual, audio, text, labels = (x[index] for x in (*self._inputs, self._labels))
            yield Batch(visual, audio, text, labels, int(self._not_finite[rows].sum()))


def has_room(splits: Iterable[Split], options: LoaderOptions) -> bool:
    """Tell whether the device is a CUDA device with room for all of these splits.

    With several processes, all must have room, as they work on the same batches. Processes that
    share a device hold a copy each.
    """
    if options.device.type != "cuda":
        return False
    device = platform.node(), options.device.index or 0
    sharing = options.processes.gather(device).count(device)
    needed = sum(len(split) * math.prod(shape) * 4 for split in splits for shape in split.shapes)

    def lacks_room() -> bool:
        free, _ = torch.cuda.mem_get_info(options.device)
        return needed > _MAX_SHARE * free / sharing

    if not options.processes.highest(int(lacks_room())):
        return True
    gc.collect()  # what an earlier training kept there counts as free
    torch.cuda.empty_cache()
    options.processes.broadcast(None)  # each looks again once all have freed theirs
    return not options.processes.highest(int(lacks_room()))


def place_splits(
    splits: Mapping[str, Split], options: LoaderOptions
) -> dict[str, Split | DeviceSplit]:
    """Return the splits, held on the CUDA device if it has room for all of them.

    Raises InputError when one cannot be read.
    """
    if not has_room(splits.values(), options):
        return dict(splits)
    return {name: DeviceSplit(split, options) for name, split in splits.items()}
