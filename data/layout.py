"""The files of a prepared split, `<root>/{train,val,test}/`."""

from __future__ import annotations

import csv
from pathlib import Path

from .errors import InputError
from .folds import SPLITS

ALIGNMENT_NAMES = ("segment", "word", "unaligned")
ARRAY_FILES = {"visual": "visual50.npy", "audio": "audio50.npy", "label": "label50.npy"}
TEXT_FILE = "bert50.npy"
PIECES_FILE = "pieces50.npy"  # input ids and mask, where there are no sentences
SEGMENTS_FILE = "segments.csv"
SPLIT_FILES = (*ARRAY_FILES.values(), TEXT_FILE, PIECES_FILE, SEGMENTS_FILE)
STAGE = ".preparing"  # beside the splits, where a preparation works
SEGMENT_COLUMNS = ("id", "video", "start", "end", "sentence", "sentiment")


def root(datadir: Path, alignment: str) -> Path:
    """Return the folder of an alignment's splits: `datadir` itself for `segment`, the default."""
    return datadir if alignment == ALIGNMENT_NAMES[0] else datadir / alignment


def preparing(folder: Path) -> str:
    """Return the command that prepares the splits in `folder`, for messages."""
    if folder.name in ALIGNMENT_NAMES[1:]:
        return f"dataset_prep.py --datadir {folder.parent} --alignment {folder.name}"
    return f"dataset_prep.py --datadir {folder}"


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


def refuse_foreign_arrays(place: Path) -> None:
    """Raise InputError where arrays of another program lie, perhaps made over hours."""
    for split in SPLITS:
        for name in (*ARRAY_FILES.values(), TEXT_FILE):
            if (place / split / name).exists():
                raise InputError(
                    f"{place / split / name} was not made by this program (no dataset.json in "
                    f"{place}); move it away, or prepare into another --datadir."
                )
