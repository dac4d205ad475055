"""The .npy splits as batches, read from disk a whole batch at a time.

What a split takes of memory is a label a segment, however large its files are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data.layout import BATCH_FILES, SEGMENTS_FILE, STAGE, iterate_segments, preparation_command
from data.manifest import MOVING, read_manifest
from data.npy import NpyReader, Rows
from system.errors import InputError
from system.processes import SINGLE_PROCESS, Processes

if TYPE_CHECKING:
    from data.loading.on_device import DeviceSplit

_INPUTS = ("visual", "audio", "text")
_LABELS_READ_AT_ONCE = 2**14


class Batch(NamedTuple):
    """B segments."""

    visual: Tensor  # (B, Tv, 35) float32, finite
    audio: Tensor  # (B, Ta, 74)
    text: Tensor  # (B, Tt, 768)
    label: Tensor  # (B, 1) sentiment
    not_finite: int  # values that were -inf, inf or NaN in the files, and are 0 here

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the model takes."""
        return self.visual, self.audio, self.text


class SegmentIds(Sequence[str]):
    """The ids of a split's segments: its table's, or row numbers where it has none.

    They are read from the table whenever they are asked for, and none are kept: results and
    messages want them, batches do not. Raises InputError when the table has another length.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder, count
        # The released script writes no table.
        self._has_table = (folder / SEGMENTS_FILE).is_file()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        if not self._has_table:
            yield from map(str, range(self._count))
            return
        found = 0
        for found, row in enumerate(iterate_segments(self._folder), start=1):  # noqa: B007
            yield row["id"]
        if found != self._count:
            raise InputError(
                f"{self._folder}: {SEGMENTS_FILE} has {found} segments, the arrays {self._count}; "
                "prepare the dataset again."
            )

    def __getitem__(self, row: int) -> str:
        for id_ in islice(self, row, None):
            return id_
        raise IndexError(row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


class Split(Dataset):
    """One split's arrays, checked when opened and read when indexed.

    `folder` holds visual50, audio50, bert50 and label50.npy, from this program or from the
    released script (float64). Raises InputError when one is missing or does not fit the others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise InputError(
                f"No folder {folder}; prepare the dataset first "
                f"({preparation_command(folder.parent)})."
            )
        stage = read_manifest(folder.parent / STAGE)
        if stage is not None and stage.get(MOVING):
            raise InputError(
                f"{folder.parent} is half moved into place by an interrupted preparation; run it "
                f"again ({preparation_command(folder.parent)})."
            )
        arrays = {kind: NpyReader(folder / name) for kind, name in BATCH_FILES.items()}
        self._check_lengths(arrays)
        self._arrays = {kind: arrays[kind] for kind in _INPUTS}
        self.labels = _sentiment(arrays["label"])
        self.widths = {kind: array.shape[2] for kind, array in self._arrays.items()}
        self.on_device: DeviceSplit | None = None  # on the device, by load_onto_device
        self.ids = SegmentIds(folder, len(self))
        for _ in self.ids:  # that the table fits the arrays is told now, not after hours
            pass

    def _check_lengths(self, arrays: dict[str, NpyReader]) -> None:
        lengths = {array.path.name: len(array) for array in arrays.values()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(
                f"{self.folder}: the arrays have different numbers of segments ({found}); "
                "prepare the dataset again."
            )
        if not len(arrays["label"]):
            raise InputError(f"{self.folder} has no segments; expected at least one.")

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[type[Split], tuple[Path]]:
        """Let a loading process that is not forked open the files itself, not get copies."""
        return Split, (self.folder,)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """One segment's shapes, visual, audio and text: (tokens, width)."""
        return [array.shape[1:] for array in self._arrays.values()]

    def __getitem__(self, rows: Rows) -> Batch:
        """Read the given rows as one batch. Raises InputError when a file has changed."""
        tensors, not_finite = self.read(rows)
        label = torch.from_numpy(self.labels[rows])[:, None]
        return Batch(*tensors, label, int(not_finite.sum()))

    def read(self, rows: Rows) -> tuple[list[Tensor], np.ndarray]:
        """Read the inputs of the given rows, and how many values of each were not finite.

        Raises InputError when a file has changed.
        """
        not_finite, tensors = np.zeros(len(rows), dtype=np.int64), []
        for array in self._arrays.values():
            values = array.read(rows).astype(np.float32, copy=False)
            tensor = torch.from_numpy(values)
            # A sum is only finite when all values are, and a single pass.
            if not math.isfinite(tensor.sum().item()):
                bad = ~np.isfinite(values)
                np.copyto(values, 0, where=bad)
                not_finite += np.count_nonzero(bad, axis=(1, 2))
            tensors.append(tensor)
        return tensors, not_finite

    def prefetch(self, rows: Rows) -> None:
        """Have the system load the given rows in the background: they are wanted next."""
        for array in self._arrays.values():
            array.prefetch(rows)


class RowBatches(Sequence[Rows]):
    """An order of rows `(n,)` cut into batches, each only when it is asked for."""

    def __init__(self, order: Rows, batch_size: int) -> None:
        self._order = order
        self._size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._size)

    def __getitem__(self, number: int) -> Rows:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._order[number * self._size : (number + 1) * self._size]


@dataclass(frozen=True)
class LoaderOptions:
    """How batches are made and where they go."""

    device: torch.device
    batch_size: int
    num_workers: int
    verbose: bool  # show progress
    processes: Processes = SINGLE_PROCESS  # that share each batch

    def rows(self, order: Rows) -> RowBatches:
        """Cut `order` into batches, whole ones, before they are shared."""
        return RowBatches(order, self.batch_size)

    @property
    def share_size(self) -> int:
        """This process's part of a whole batch."""
        return len(self.share(range(self.batch_size)))

    def share(self, rows: Rows) -> Rows:
        """Return this process's part of a batch's rows; may be empty in a short last batch."""
        return rows[self.processes.rank :: self.processes.count]


def batches(split: Split, order: Rows | None, loading: LoaderOptions) -> Iterable[Batch]:
    """Iterate over `split` in batches, in the given order of rows (None: file order).

    Of several processes, each gets its share of each batch. A file that can no longer be read
    ends the iteration with an InputError.
    """
    rows = range(len(split)) if order is None else order
    if split.on_device is not None:
        return split.on_device.batches(rows, loading)
    # batch_size=None hands each whole list of rows to Split at once.
    return _Loader(
        split,
        batch_size=None,
        sampler=_Sampler(split, loading.rows(rows), loading),
        num_workers=loading.num_workers,
        pin_memory=loading.device.type == "cuda",
        # Its own: PyTorch's, which checkpoints hold, then depends on the steps alone.
        generator=torch.Generator(),
    )


class _Loader(DataLoader):
    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from super().__iter__()
            return
        except InputError as error:
            message = str(error)
        # From a loading process it comes with that process's traceback in front.
        raise InputError(message.rpartition("InputError: ")[2].strip())


class _Sampler(Sampler):
    """This process's rows of each batch; while one is worked on, the next is prefetched."""

    def __init__(self, split: Split, rows: RowBatches, loading: LoaderOptions) -> None:
        self._split, self._rows, self._loading = split, rows, loading

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Rows]:
        rows_ahead = map(self._loading.share, islice(self._rows, 1, None))
        for rows in map(self._loading.share, self._rows):
            self._split.prefetch(next(rows_ahead, ()))
            yield rows


def _sentiment(labels: NpyReader) -> np.ndarray:
    """Return the sentiment `(N,)` float32 of labels `(N, 1, 7)`: their first value."""
    if labels.shape[1] != 1:
        raise InputError(
            f"{labels.path} has shape {labels.shape}, expected ({len(labels)}, 1, 7): one label a "
            "segment; prepare the dataset again."
        )
    sentiment = np.empty(len(labels), dtype=np.float32)
    for begin in range(0, len(labels), _LABELS_READ_AT_ONCE):
        rows = range(begin, min(begin + _LABELS_READ_AT_ONCE, len(labels)))
        sentiment[rows.start : rows.stop] = labels.read(rows)[:, 0, 0]
    wrong = np.flatnonzero(~np.isfinite(sentiment))
    if len(wrong):
        found = sentiment[wrong[0]]
        raise InputError(f"{labels.path}: the label of segment {wrong[0]} is {found}.")
    return sentiment
