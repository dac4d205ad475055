"""One split of a prepared dataset, checked when it is opened and read a whole batch at a time.

A split keeps only the labels and ids of its segments in memory, however large its files are.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.fetching.command import no_dataset, preparation_command
from data.labels import scores_of
from data.layout import (
    BATCH_FILES,
    HUGE,
    HUGE_ADVICE,
    PIECES_FILE,
    SEGMENTS_FILE,
    STAGE,
    TEXT_FILE,
    iterate_segments,
    read_ids,
)
from data.loading.absent import check_text_files
from data.manifest import MOVING, has_rows, read_manifest
from data.npy import NpyReader, Rows
from system.errors import InputError
from system.files import file_facts, whole_digest

INPUTS = ("visual", "audio", "text")


class Batch(NamedTuple):
    """B segments."""

    visual: Tensor  # (B, Tv, 35) float32, finite
    audio: Tensor  # (B, Ta, 74)
    text: Tensor  # (B, Tt, 768); of word pieces (B, Tt, 2 or 3), whole numbers
    labels: Tensor  # (B, L) every label column: sentiment, then the emotions where there are any
    not_finite: int  # values that were -inf, inf or NaN in the files, and are 0 here

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a model takes."""
        return self.visual, self.audio, self.text


class Split(Dataset[Batch]):
    """One split's arrays, checked when opened and read when indexed.

    `folder` holds visual50, audio50, bert50 and label50.npy, from this program or from the
    released script (float64). Raises InputError when one is missing or does not fit the others;
    unless it `needs_labels`, label50.npy may be missing, and labels are then NaN. Where it
    `takes_pieces`, text is the word pieces of pieces50.npy, for a model with a text encoder.
    """

    def __init__(self, folder: Path, needs_labels: bool = True, takes_pieces: bool = False) -> None:
        self.folder, self._needs_labels, self.takes_pieces = folder, needs_labels, takes_pieces
        manifest, stage = read_manifest(folder.parent), read_manifest(folder.parent / STAGE)
        if stage is not None and stage.get(MOVING):
            raise InputError(
                f"{folder.parent} is half moved into place by an interrupted preparation; run it "
                f"again ({preparation_command(folder.parent, stage)})."
            )
        if not folder.is_dir() and (folder.parent / BATCH_FILES["visual"]).is_file():
            raise InputError(
                f"No folder {folder}: {folder.parent} is itself a split; give the folder above it."
            )
        if not folder.is_dir():
            raise no_dataset(folder, folder.parent, manifest or stage)
        check_text_files(folder, manifest, takes_pieces)
        arrays = {
            kind: NpyReader(path, holds_integers=path.name == PIECES_FILE)
            for kind, path in self._files.items()
        }
        self._check_lengths(arrays)
        self._arrays = {kind: arrays[kind] for kind in INPUTS}
        label = arrays.get("label")
        unlabelled = np.full((len(arrays["text"]), 1), np.nan, np.float32)
        self.labels = unlabelled if label is None else _read_labels(label)  # (N, L) float32
        self.widths = dict(zip(INPUTS, (shape[1] for shape in self.shapes), strict=True))
        self.ids = self._read_ids(manifest)
        self.scores = scores_of(manifest)  # whose labels these are

    @property
    def _files(self) -> dict[str, Path]:
        names = {**BATCH_FILES, "text": PIECES_FILE} if self.takes_pieces else BATCH_FILES
        files = {kind: self.folder / name for kind, name in names.items()}
        if not (self._needs_labels or files["label"].is_file()):
            del files["label"]
        return files

    def _check_lengths(self, arrays: dict[str, NpyReader]) -> None:
        lengths = {array.path.name: len(array) for array in arrays.values()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(
                f"{self.folder}: the arrays have different numbers of segments ({found}); "
                "prepare the dataset again."
            )
        if not len(arrays["text"]):
            raise InputError(f"{self.folder} has no segments; expected at least one.")

    def _read_ids(self, manifest: dict[str, Any] | None) -> list[str]:
        """Return the segments' ids, or row numbers where there is no table."""
        if not (self.folder / SEGMENTS_FILE).is_file():  # the released script writes none
            return list(map(str, range(len(self))))
        ids, digest = read_ids(self.folder)
        if len(ids) != len(self):
            raise InputError(
                f"{self.folder}: {SEGMENTS_FILE} has {len(ids)} segments, the arrays {len(self)}; "
                "prepare the dataset again."
            )
        if not has_rows(manifest, self.folder.absolute().name, digest):
            raise InputError(
                f"{self.folder / SEGMENTS_FILE} was changed: its rows may no longer be those "
                f"of the arrays; prepare the dataset again "
                f"({preparation_command(self.folder.parent, manifest)})."
            )
        return ids

    @cached_property
    def videos(self) -> list[str]:
        """Each segment's video; the segment's id where there is no table."""
        return [row["video"] for row in iterate_segments(self.folder)] or self.ids

    @property
    def knows_videos(self) -> bool:
        """Whether there is a table, which names each segment's video."""
        return (self.folder / SEGMENTS_FILE).is_file()

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[type[Split], tuple[Path, bool, bool]]:
        """Pickle the arguments only: a loading process that is not forked opens the files again."""
        return Split, (self.folder, self._needs_labels, self.takes_pieces)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """One segment's shapes, visual, audio and text: (tokens, width)."""
        visual, audio, text = (array.shape[1:] for array in self._arrays.values())
        return [visual, audio, text[::-1] if self.takes_pieces else text]

    @cached_property
    def digest(self) -> str:
        """A digest of the sizes and samples of its files, which tells its content from another's.

        It is the same whether text features or word pieces are read.
        """
        files = self._files
        if (self.folder / TEXT_FILE).is_file():
            files["text"] = self.folder / TEXT_FILE
        facts = [file_facts(path) for path in files.values()]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def __getitem__(self, rows: Rows) -> Batch:
        """Read the given rows as one batch. Raises InputError when a file has changed."""
        (visual, audio, text), not_finite = self.read(rows)
        labels = torch.from_numpy(self.labels[rows])
        return Batch(visual, audio, text, labels, int(not_finite.sum()))

    def read(self, rows: Rows) -> tuple[list[Tensor], np.ndarray]:
        """Read the inputs of the given rows, and count the values of each that were not finite.

        Raises InputError when a file has changed.
        """
        not_finite, tensors = np.zeros(len(rows), dtype=np.int64), []
        for kind, array in self._arrays.items():
            values = array.read(rows).astype(np.float32, copy=False)
            if kind == "text" and self.takes_pieces:
                values = np.ascontiguousarray(values.swapaxes(1, 2))
            tensor = torch.from_numpy(values)
            # One pass: the sum is finite only if all values are.
            if not math.isfinite(tensor.sum().item()):
                is_not_finite = ~np.isfinite(values)
                np.copyto(values, 0, where=is_not_finite)
                not_finite += np.count_nonzero(is_not_finite, axis=(1, 2))
            tensors.append(tensor)
        return tensors, not_finite

    @cached_property
    def pieces_ranges(self) -> tuple[list[int], list[int]]:
        """The lowest and the highest ids, mask values and, by word, positions of words."""
        return self._arrays["text"].ranges()

    @cached_property
    def pieces_digest(self) -> str:
        """A digest of all word pieces."""
        return whole_digest(self.folder / PIECES_FILE)

    def prefetch(self, rows: Rows) -> None:
        """Have the operating system load the given rows, which are read next, in the background."""
        for array in self._arrays.values():
            array.prefetch(rows)


def _read_labels(array: NpyReader) -> np.ndarray:
    """Return labels `(N, 1, L)` as `(N, L)` float32; NaN stays, for the task to handle."""
    if array.shape[1] != 1:
        raise InputError(
            f"{array.path} has shape {array.shape}, expected ({len(array)}, 1, 7): one label a "
            "segment; prepare the dataset again."
        )
    labels = np.empty((len(array), array.shape[2]), dtype=np.float32)
    for first, block in array.blocks():
        labels[first : first + len(block)] = block[:, 0]
    return labels


def describe_huge_values(folder: Path, rows: Rows) -> str:
    """Return a message if audio or visual of these rows has values too large for a network, or "".

    Reading leaves such values as they are: predictions from them are not finite in most models.
    """
    for kind in ("audio", "visual"):
        array = NpyReader(folder / BATCH_FILES[kind])
        values = array.read(rows)
        largest = np.abs(values).max(where=np.isfinite(values), initial=0)
        if largest > HUGE:
            return f"{array.path} has values up to {largest:.4g} there; {HUGE_ADVICE}"
    return ""
