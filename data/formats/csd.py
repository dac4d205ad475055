"""Checking and reading computational sequences (.csd, HDF5)."""

from __future__ import annotations

import os
from collections.abc import KeysView
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5g

from data.formats.dataset_layout import Layouts
from data.formats.hdf5_file import open_hdf5, reading
from data.formats.hdf5_objects import link_to, names_in, open_object
from data.formats.object_header import HeaderReader
from data.formats.stored_rows import StoredRows, expanded
from system.errors import InputError


def sort_order(intervals: np.ndarray) -> np.ndarray:
    """Return the rows of `intervals` `(n, 2)` by start time, ties in file order.

    Rows without a time (NaN) belong to no segment, and are left out.
    """
    timed = np.flatnonzero(~np.isnan(intervals).any(axis=1))
    return timed[np.argsort(intervals[timed, 0], kind="stable")]


@dataclass(frozen=True)
class VideoRows:
    """One video's rows in one sequence, sorted by start time."""

    intervals: np.ndarray  # (n, 2) seconds, float64
    # (n,) each sorted row's number in the file, over all parts; None if the file is sorted
    _order: np.ndarray | None
    _parts: list[StoredRows]
    _path: Path
    _video: str

    @property
    def where(self) -> str:
        """The file and the video, for messages."""
        return f"{self._path}, video {self._video}"

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Read the features of the given sorted rows, `(len(rows), width)`.

        Other rows are read only where they share a compressed chunk. Ask for many rows at once:
        each call decompresses a chunk again.
        """
        numbers = rows if self._order is None else self._order[rows]
        if not len(numbers):
            return np.empty((0, self._parts[0].shape[1]))
        if (numbers[1:] > numbers[:-1]).all():
            return self._read_in_file_order(numbers)
        numbers, inverse = np.unique(numbers, return_inverse=True)
        return self._read_in_file_order(numbers)[inverse]

    def _read_in_file_order(self, numbers: np.ndarray) -> np.ndarray:
        pieces, offset, letters = [], 0, 0
        with reading(self._path):
            for part in self._parts:
                begin, end = np.searchsorted(numbers, [offset, offset + len(part)])
                if begin < end:
                    pieces.append(part.take(numbers[begin:end] - offset))
                    if part.dtype.kind == "O":  # text of any length; parts may be links to one
                        letters += sum(map(len, pieces[-1].flat))
                if letters > part.file_bytes:
                    raise InputError(
                        f"{self.where}: its parts have {letters:,} letters, more than the file has "
                        "bytes; it is damaged, download it again."
                    )
                offset += len(part)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def words(self, rows: np.ndarray) -> list[str]:
        """Read the given sorted rows of a words sequence as text; the same row is the same text."""
        numbers, inverse = np.unique(rows, return_inverse=True)
        texts = [
            word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)
            for word in self.features(numbers)[:, 0].tolist()
        ]
        return [texts[index] for index in inverse.tolist()]


class ComputationalSequence:
    """One .csd file, open for reading. Use it as a context manager.

    All entries have the same width as the first; with `holds_text`, they are words, one per
    row. Every error is an InputError that names the file, what was found and what was expected.
    """

    def __init__(self, path: Path, holds_text: bool = False) -> None:
        self.path = path
        self.holds_text = holds_text
        self._file = open_hdf5(path)
        try:
            self._headers = HeaderReader(self._file.id)
            self._file_bytes = os.fstat(self._headers.descriptor).st_size
            self._layouts = Layouts(self._headers)
            self._data = _data_group(self._file, self._headers, path)
            self._entries = self._group_by_video()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ComputationalSequence:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def videos(self) -> KeysView[str]:
        """The ids of the videos that have an entry here."""
        return self._entries.keys()

    @cached_property
    def width(self) -> int:
        """The number of features per row, of the first entry."""
        key = next(iter(self._entries.values()))[0]
        with reading(self.path):
            shape = self._open_rows(key, "features").shape
        if len(shape) != 2 or shape[1] == 0 or (self.holds_text and shape[1] != 1):
            expected = "(n, 1), a word a row" if self.holds_text else "(n, width)"
            raise InputError(f"{self.path}: features have shape {shape}, expected {expected}.")
        return shape[1]

    def _group_by_video(self) -> dict[str, list[str]]:
        """Map each video id to its entries: `id`, or the parts `id[0]`, `id[1]`, ..."""
        entries: dict[str, list[str]] = {}
        with reading(self.path):
            for key in names_in(self._headers, self._data, str(self.path)):
                entries.setdefault(key.split("[")[0], []).append(key)
        if not entries:
            raise InputError(f"{self.path} has no entries under data; download it again.")
        return entries

    def read(self, video: str) -> VideoRows:
        """Read the intervals of `video` and make its features readable."""
        intervals, parts = self._open_parts(video)
        starts = intervals[:, 0]
        if (starts[1:] >= starts[:-1]).all() and not np.isnan(intervals).any():  # usual
            return VideoRows(intervals, None, parts, self.path, video)
        order = sort_order(intervals)
        return VideoRows(intervals[order], order, parts, self.path, video)

    def read_unsorted(self, video: str) -> tuple[np.ndarray, np.ndarray]:
        """Read `video` in file order: intervals `(n, 2)` and features `(n, width)`."""
        intervals, parts = self._open_parts(video)
        with reading(self.path):
            return intervals, np.concatenate([features.read_all() for features in parts])

    def _open_parts(self, video: str) -> tuple[np.ndarray, list[StoredRows]]:
        """Return the intervals of a video's parts, concatenated, and the features of each part."""
        with reading(self.path):
            parts = [self._open_part(key) for key in self._entries[video]]
            features, intervals = [part[0] for part in parts], [part[1] for part in parts]
            self._check_sizes(video, features)
            self._check_sizes(video, intervals)
            times = np.concatenate([rows.read_all() for rows in intervals], dtype=np.float64)
        return times, features

    def _check_sizes(self, video: str, parts: list[StoredRows]) -> None:
        """Raise InputError if datasets claim more than the file can hold, each or together.

        Parts may be links to one entry, and each may expand from almost nothing.
        """
        claimed, stored = map(sum, zip(*[rows.check_size() for rows in parts], strict=True))
        if claimed > expanded(stored) or stored > self._file_bytes:
            raise InputError(
                f"{self.path}: the {len(parts):,} parts of {video} claim {claimed:,} bytes, but "
                f"the file has {min(stored, self._file_bytes):,} for them; it is damaged, download "
                "it again."
            )

    def _open_part(self, key: str) -> tuple[StoredRows, StoredRows]:
        """Return features and intervals of a part, whose sizes are yet to be checked."""
        where = f"{self.path}, entry {key}"
        features, intervals = self._open_rows(key, "features"), self._open_rows(key, "intervals")
        for rows, is_text in ((features, self.holds_text), (intervals, False)):
            dtype = rows.dtype
            if not (h5py.check_string_dtype(dtype) if is_text else dtype.kind in "fiu"):
                expected = "text" if is_text else "numbers"
                raise InputError(f"{where}: holds {dtype}, expected {expected}.")
        if len(features.shape) != 2 or features.shape[1] != self.width:
            raise InputError(
                f"{where}: features have shape {features.shape}, expected (n, {self.width}) as in "
                "the first entry."
            )
        if len(intervals.shape) != 2 or intervals.shape[1] != 2:
            raise InputError(f"{where}: intervals have shape {intervals.shape}, expected (n, 2).")
        if len(features) != len(intervals):
            raise InputError(
                f"{where}: {len(features)} feature rows but {len(intervals)} intervals; "
                "expected as many of each."
            )
        return features, intervals

    def _open_rows(self, key: str, name: str) -> StoredRows:
        where, path = f"{self.path}, entry {key}", f"{key}/{name}"
        link = link_to(self._data, path, where)
        messages = {} if link is None else self._headers.messages(link.u)
        layout = self._layouts.in_header(messages)
        if layout is None:
            dataset = open_object(h5d.DatasetID, self._headers, self._data, path, where)
            if dataset is None:
                raise InputError(f"{where}: no dataset {name}; expected features and intervals.")
            layout = self._layouts.by_library(dataset, messages, f"{where}, {name}")
        return StoredRows(layout, self._headers.descriptor, self._file_bytes, f"{where}, {name}")


def check_csd(path: Path) -> None:
    """Check that `path` opens as a .csd file with entries; raises InputError otherwise."""
    with ComputationalSequence(path):
        pass


def _data_group(file: h5py.File, headers: HeaderReader, path: Path) -> h5g.GroupID:
    with reading(path):
        roots = names_in(headers, file.id, str(path))
        if len(roots) != 1:
            raise InputError(f"{path} has {len(roots)} root groups {roots[:3]}, expected one.")
        root = open_object(h5g.GroupID, headers, file.id, roots[0], str(path))
        data = None if root is None else open_object(h5g.GroupID, headers, root, "data", str(path))
        if data is None:
            raise InputError(f"{path} has no group {roots[0]}/data; it is not a .csd file.")
        return data
