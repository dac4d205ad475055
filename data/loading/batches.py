"""A split as batches, from its files or from a device."""

from __future__ import annotations

import math
import shutil
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice

import torch
from torch.utils.data import DataLoader, Sampler

from data.loading.on_device import DeviceSplit
from data.loading.options import LoaderOptions
from data.loading.split import Batch, Split
from data.npy import Rows
from system.errors import InputError

_SHARED_MEMORY = "/dev/shm"  # in which loading processes pass batches, on Linux
_GRACE_SECONDS = 10  # for which a loading process outlives a SIGTERM


def batches(
    split: Split | DeviceSplit, order: Rows | None, options: LoaderOptions
) -> Iterable[Batch]:
    """Iterate over `split` in batches, in the given order of rows (None: file order).

    With several processes, each gets its share of each batch. Raises InputError during iteration
    when a file can no longer be read.
    """
    rows = range(len(split)) if order is None else order
    if isinstance(split, DeviceSplit):
        return split.batches(rows, options)
    # batch_size=None hands each whole list of rows to Split at once.
    return _Loader(
        split,
        batch_size=None,
        sampler=_Sampler(split, options.rows(rows), options),
        num_workers=_fitting_workers(split, options),
        pin_memory=options.device.type == "cuda",
        worker_init_fn=_outlast_interrupts,
        # Not PyTorch's global one: checkpoints keep that, and only training steps may change it.
        generator=torch.Generator(),
    )


def _fitting_workers(split: Split, options: LoaderOptions) -> int:
    """Return how many of the loading processes have room for their batches; warns of fewer.

    Each has two batches ready, beside the one in use and the one that is copied to a GPU; a batch
    is counted whole, as other processes of the machine may have their shares there. Without room
    PyTorch would wait for ever.
    """
    count, rows = options.num_workers, min(options.batch_size, len(split))
    batch = 4 * rows * sum(map(math.prod, [*split.shapes, split.labels.shape[1:]]))  # bytes
    needed = min(2 * count + 2, math.ceil(len(split) / rows)) * batch
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:  # a system without it
        return count
    if not count or needed <= free:
        return count
    fitting = max(free // batch // 2 - 1, 0)
    _warn_of_fewer(count, fitting)
    return fitting


@cache  # once, not in every epoch
def _warn_of_fewer(count: int, fitting: int) -> None:
    warnings.warn(
        f"{_SHARED_MEMORY} has no room for the batches of --num_workers {count}: {fitting} load "
        "them; allow more shared memory (docker run --shm-size), or use a smaller --batch_size",
        stacklevel=3,
    )


def _outlast_interrupts(_worker: int) -> None:
    """Let a loading process outlive a signal to all processes: the program ends first.

    The thread that passes on its batches then finds no reader, which is no fault to print.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
    sys.excepthook = lambda *_: None  # only threads have it here


class _Loader(DataLoader[Batch]):
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch names a private class
        try:
            yield from super().__iter__()
            return
        except InputError as error:
            message = str(error)
        # A loading process puts its own traceback in front of the message.
        raise InputError(message.rpartition("InputError: ")[2].strip())


class _Sampler(Sampler[Rows]):
    """Yields this process's rows of each batch, and prefetches those of the next batch."""

    def __init__(self, split: Split, rows: Sequence[Rows], options: LoaderOptions) -> None:
        self._split, self._rows, self._options = split, rows, options

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Rows]:
        rows_ahead = map(self._options.share, islice(self._rows, 1, None))
        for rows in map(self._options.share, self._rows):
            self._split.prefetch(next(rows_ahead, ()))
            yield rows
