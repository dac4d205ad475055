"""The .npy splits as batches, read from memory-mapped files a whole batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .distributed import ALONE, Processes
from .errors import InputError
from .layout import ARRAY_FILES, SEGMENTS_FILE, STAGE, TEXT_FILE, preparing, read_segments
from .manifest import MOVING, read_manifest
from .npy import open_array

_FILES = {**ARRAY_FILES, "text": TEXT_FILE}
_INPUTS = ("visual", "audio", "text")


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


class Split(Dataset):
    """One split's arrays, checked when opened and read when indexed.

    `folder` holds visual50, audio50, bert50 and label50.npy, from this program or from the
    released script (float64). Raises InputError when one is missing or does not fit the others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise InputError(
                f"No folder {folder}; prepare the dataset first ({preparing(folder.parent)})."
            )
        stage = read_manifest(folder.parent / STAGE)
        if stage is not None and stage.get(MOVING):
            raise InputError(
                f"{folder.parent} is half moved into place by an interrupted preparation; run it "
                f"again ({preparing(folder.parent)})."
            )
        arrays = {kind: open_array(folder / name) for kind, name in _FILES.items()}
        self._check_lengths(arrays)
        self._arrays = {kind: arrays[kind] for kind in _INPUTS}
        self.labels = _sentiment(arrays["label"], folder / _FILES["label"])
        self.widths = {kind: array.shape[2] for kind, array in self._arrays.items()}
        self.ids = self._read_ids()

    def _check_lengths(self, arrays: dict[str, np.ndarray]) -> None:
        lengths = {_FILES[kind]: len(array) for kind, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(
                f"{self.folder}: the arrays have different numbers of segments ({found}); "
                "prepare the dataset again."
            )
        if not len(arrays["label"]):
            raise InputError(f"{self.folder} has no segments; expected at least one.")

    def _read_ids(self) -> list[str]:
        rows = read_segments(self.folder)
        # The released script writes no table.
        if not (self.folder / SEGMENTS_FILE).is_file():
            return [str(row) for row in range(len(self))]
        if len(rows) != len(self):
            raise InputError(
                f"{self.folder}: {SEGMENTS_FILE} has {len(rows)} segments, the arrays {len(self)}; "
                "prepare the dataset again."
            )
        return [row["id"] for row in rows]

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[type[Split], tuple[Path]]:
        """Let a loading process that is not forked map the files itself, not get copies."""
        return Split, (self.folder,)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read the given rows as one batch."""
        not_finite, tensors = 0, []
        for kind in _INPUTS:
            values = np.asarray(self._arrays[kind][rows], dtype=np.float32)
            bad = ~np.isfinite(values)
            count = int(np.count_nonzero(bad))
            if count:
                values[bad] = 0
            not_finite += count
            tensors.append(torch.from_numpy(values))
        label = torch.from_numpy(self.labels[rows])[:, None]
        return Batch(*tensors, label, not_finite)


@dataclass(frozen=True)
class Loading:
    """How batches are made and where they go."""

    device: torch.device
    batch_size: int
    num_workers: int
    verbose: bool  # show progress
    processes: Processes = ALONE  # that share each batch

    def rows(self, order: np.ndarray) -> list[np.ndarray]:
        """Cut `order` into batches, whole ones, before they are shared."""
        return [order[n : n + self.batch_size] for n in range(0, len(order), self.batch_size)]

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return this process's part of a batch's rows; may be empty in a short last batch."""
        return rows[self.processes.rank :: self.processes.count]


def batches(split: Split, order: np.ndarray | None, loading: Loading) -> DataLoader:
    """Iterate over `split` in batches, in the given order of rows (None: file order).

    Of several processes, each gets its share of each batch.
    """
    rows = np.arange(len(split)) if order is None else order
    # batch_size=None hands each whole list of rows to Split at once.
    return DataLoader(
        split,
        batch_size=None,
        sampler=[loading.share(batch) for batch in loading.rows(rows)],
        num_workers=loading.num_workers,
        pin_memory=loading.device.type == "cuda",
        # Its own: a loader would otherwise draw from the one that dropout depends on.
        generator=torch.Generator(),
    )


def _sentiment(labels: np.ndarray, path: Path) -> np.ndarray:
    """Return the sentiment `(N,)` float32 of labels `(N, 1, 7)`: their first value."""
    if labels.shape[1] != 1:
        raise InputError(
            f"{path} has shape {labels.shape}, expected ({len(labels)}, 1, 7): one label a "
            "segment; prepare the dataset again."
        )
    sentiment = np.array(labels[:, 0, 0], dtype=np.float32)
    wrong = np.flatnonzero(~np.isfinite(sentiment))
    if len(wrong):
        raise InputError(f"{path}: the label of segment {wrong[0]} is {sentiment[wrong[0]]}.")
    return sentiment
