"""The files of a prepared split, `<root>/{train,val,test}/`."""

from __future__ import annotations

import csv
import hashlib
import math
import sys
from collections.abc import Container, Iterator
from pathlib import Path

from system.errors import InputError, explain_reading, shown

SPLITS = ("train", "val", "test")
ALIGNMENT_NAMES = ("segment", "word", "unaligned")
ARRAY_FILES = {"visual": "visual50.npy", "audio": "audio50.npy", "label": "label50.npy"}
TEXT_FILE = "bert50.npy"
BATCH_FILES = {**ARRAY_FILES, "text": TEXT_FILE}  # what batches are read from
PIECES_FILE = "pieces50.npy"  # word pieces: what a text encoder takes
SEGMENTS_FILE = "segments.csv"
TEXT_LENGTH = 50  # positions: [CLS], at most 48 word pieces, [SEP], padding; or words
SPLIT_FILES = (*BATCH_FILES.values(), PIECES_FILE, SEGMENTS_FILE)
STAGE = ".preparing"  # beside the splits, where a preparation works
LOCK = ".preparing.lock"
DOWNLOAD_LOCK = ".downloading.lock"  # beside .csd files, which several datasets may share
# The share of useless segments, sentences or word pieces above which a warning is given; --check
# fails above a half.
DOUBTFUL_SHARE = 0.05
HUGE = 1e18  # the square of a larger value is beyond float32
HUGE_ADVICE = "numpy.nan_to_num, for example, writes such values for infinity; use 0 instead."
SEGMENT_COLUMNS = ("id", "video", "start", "end", "sentence", "sentiment")

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a sentence may be of any length


def alignment_folder(datadir: Path, alignment: str) -> Path:
    """Return the folder of an alignment's splits: `datadir` itself for `segment`, the default."""
    return datadir if alignment == ALIGNMENT_NAMES[0] else datadir / alignment


def iterate_segments(folder: Path) -> Iterator[dict[str, str]]:
    """Read a split's segment table row by row; yields nothing when the split has no table.

    Cells that a row lacks are empty. Raises InputError when the table lacks columns, or the file
    is not CSV.
    """
    path = folder / SEGMENTS_FILE
    if not path.is_file():
        return
    try:
        with explain_reading(path), path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames or []
            if not set(SEGMENT_COLUMNS) <= set(columns):
                raise InputError(
                    f"{path} has columns {shown(columns)}, expected {list(SEGMENT_COLUMNS)}; save "
                    "it with commas and these names."
                )
            yield from reader
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV table in UTF-8: {error}.") from error


def read_segments(folder: Path) -> list[dict[str, str]]:
    """Read the whole segment table of a split, as `iterate_segments` does."""
    return list(iterate_segments(folder))


def read_ids(folder: Path) -> tuple[list[str], str]:
    """Return the ids of a split's segment table, and a digest of the segments in its rows.

    The digest is of ids, videos and sentences in order: it stays when the table is saved in another
    CSV form, and changes when rows are sorted. Raises InputError as `iterate_segments` does.
    """
    ids, digest = [], hashlib.sha256()
    for row in iterate_segments(folder):
        ids.append(row["id"])
        segment = [row[name] for name in ("id", "video", "sentence")]
        digest.update(repr(segment).encode())
    return ids, digest.hexdigest()


def number_in(cell: str) -> float:
    """Return the number in a cell of a table, NaN where there is none."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def refuse_foreign_arrays(folder: Path, prepared_splits: Container[str]) -> None:
    """Raise InputError if other splits have arrays: another program's, which would be lost."""
    for split in SPLITS:
        for name in BATCH_FILES.values() if split not in prepared_splits else ():
            if (folder / split / name).exists():
                raise InputError(
                    f"{folder / split / name} was not made by this program (no dataset.json in "
                    f"{folder} lists it); move it away, or prepare into another --datadir."
                )
