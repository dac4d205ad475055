"""The files of a prepared split, `<datadir>/{train,val,test}/`."""

from __future__ import annotations

import csv
from pathlib import Path

from .errors import InputError

ARRAY_FILES = {"visual": "visual50.npy", "audio": "audio50.npy", "label": "label50.npy"}
TEXT_FILE = "bert50.npy"
SEGMENTS_FILE = "segments.csv"
SEGMENT_COLUMNS = ("id", "video", "start", "end", "sentence", "sentiment")


def read_segments(folder: Path) -> list[dict[str, str]]:
    """Read a split's segment table, one dict a row; empty when the split has none.

    Raises InputError when the table lacks columns.
    """
    path = folder / SEGMENTS_FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        found = reader.fieldnames or []
    if not set(SEGMENT_COLUMNS) <= set(found):
        raise InputError(f"{path} has columns {found}, expected {list(SEGMENT_COLUMNS)}.")
    return rows
