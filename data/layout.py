"""The files of a prepared split, `<root>/{train,val,test}/`, and writing them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .folds import SPLITS
from .npy import NpyWriter

ALIGNMENT_NAMES = ("segment", "word", "unaligned")
ARRAY_FILES = {"visual": "visual50.npy", "audio": "audio50.npy", "label": "label50.npy"}
TEXT_FILE = "bert50.npy"
PIECES_FILE = "pieces50.npy"  # input ids and mask, where there are no sentences
SEGMENTS_FILE = "segments.csv"
SPLIT_FILES = (*ARRAY_FILES.values(), TEXT_FILE, PIECES_FILE, SEGMENTS_FILE)
SEGMENT_COLUMNS = ("id", "video", "start", "end", "sentence", "sentiment")


def root(datadir: Path, alignment: str) -> Path:
    """Return the folder of an alignment's splits: `datadir` itself for `segment`, the default."""
    return datadir if alignment == ALIGNMENT_NAMES[0] else datadir / alignment


def read_segments(folder: Path) -> list[dict[str, str]]:
    """Read a split's segment table, one dict a row; empty when the split has none.

    Raises InputError when the table lacks columns.
    """
    path = folder / SEGMENTS_FILE
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            found = reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV table in UTF-8: {error}.") from error
    if not set(SEGMENT_COLUMNS) <= set(found):
        raise InputError(f"{path} has columns {found}, expected {list(SEGMENT_COLUMNS)}.")
    return rows


class SplitWriter:
    """Writes a split's arrays and segment table as they come. Use it as a context manager.

    `shapes` are those of one segment, by the names of `ARRAY_FILES`.
    """

    def __init__(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        folder.mkdir(parents=True)
        self._stack = ExitStack()
        self._arrays = {
            kind: self._stack.enter_context(NpyWriter(folder / ARRAY_FILES[kind], shape))
            for kind, shape in shapes.items()
        }
        file = (folder / SEGMENTS_FILE).open("w", encoding="utf-8", newline="")
        self._table = csv.writer(self._stack.enter_context(file))
        self._table.writerow(SEGMENT_COLUMNS)
        self._videos: set[str] = set()
        self._segments = 0

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def counts(self) -> dict[str, int]:
        """How much is written."""
        return {"segments": self._segments, "videos": len(self._videos)}

    def write(self, arrays: dict[str, np.ndarray], rows: Iterable[Sequence[Any]]) -> None:
        """Append n segments: arrays `(n, *shape)`, and table rows without the sentiment.

        The sentiment of a row is its label's first value.
        """
        for kind, writer in self._arrays.items():
            writer.append(arrays[kind])
        sentiments = arrays["label"][:, 0, 0].tolist()
        for row, sentiment in zip(rows, sentiments, strict=True):
            self._table.writerow([*row, sentiment])
            self._videos.add(row[1])
            self._segments += 1


def refuse_foreign_arrays(place: Path) -> None:
    """Raise InputError where arrays of another program lie, perhaps made over hours."""
    for split in SPLITS:
        for name in (*ARRAY_FILES.values(), TEXT_FILE):
            if (place / split / name).exists():
                raise InputError(
                    f"{place / split / name} was not made by this program (no dataset.json in "
                    f"{place}); move it away, or prepare into another --datadir."
                )
