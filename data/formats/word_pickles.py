"""Pickles of segments word by word, as MAG-BERT and MISA (and MMIM, BBFN) publish them.

MAG-BERT (github.com/WasifurRahman/BERT_multimodal_transformer) has items `((words, visual,
acoustic), label, id)` in one file, MISA (github.com/declare-lab/MISA) items `((word numbers,
visual, acoustic, words), label, id)` in a file a split. Row t of visual and acoustic is word t.
"""

from __future__ import annotations

import pickletools
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from system.errors import InputError
from system.torch_layout import BoundedFile

SPLIT_NAMES = {
    "train": "train",
    **dict.fromkeys(("valid", "dev", "val", "validation"), "val"),
    "test": "test",
}
_MAX_WORDS = 50  # the last ones are kept, as in the alignment by word
_OPCODES_READ, _BYTES_READ = 30, 2**20


def holds_words(path: Path) -> bool:
    """Tell whether the pickle at `path` has lists of segments; reads only its first bytes."""
    if path.is_dir():
        return True
    is_split = False
    if not path.is_file():  # opening a pipe would wait without end
        return False
    # Reading the whole file reports the errors.
    with suppress(OSError, ValueError), path.open("rb") as file:
        opcodes = pickletools.genops(cast("BinaryIO", BoundedFile(file, _BYTES_READ)))
        for opcode, argument, _ in islice(opcodes, _OPCODES_READ):
            if opcode.name in ("EMPTY_LIST", "EMPTY_DICT", "LIST", "DICT") and is_split:
                return opcode.name.endswith("LIST")
            if isinstance(argument, str):
                is_split = argument in SPLIT_NAMES
    return False


def as_entries(where: str, items: Sequence[Any]) -> tuple[dict[str, Any], int]:
    """Return a split's items as entries by name, and how many were left out for having no word.

    `where` is the file and the split, for messages. Raises InputError if an item is no segment,
    or does not have one row for each word.
    """
    entries: dict[str, list[Any]] = defaultdict(list, id=[])
    for number, item in enumerate(items):
        segment = _read_item(f"{where}, item {number}", item)
        for key, value in segment.items() if segment["raw_text"] else ():
            entries[key].append(value)
    return dict(entries), len(items) - len(entries["id"])


def _read_item(where: str, item: Any) -> dict[str, Any]:
    is_triple = isinstance(item, (list, tuple)) and len(item) >= 3
    parts = item[0] if is_triple else None
    if not isinstance(parts, (list, tuple)) or len(parts) < 3:
        raise InputError(
            f"{where} is no segment ((words, visual, acoustic), label, id); use a file as "
            "MAG-BERT or MISA published it"
        )
    words = parts[0 if len(parts) == 3 else 3]
    words = words.ravel().tolist() if isinstance(words, np.ndarray) else words
    if not isinstance(words, (list, tuple)):
        raise InputError(f"{where}: words are of type {type(words).__name__}, expected a list")
    words = [_word(where, word) for word in words]
    entries = {"id": item[2], "labels": item[1], "raw_text": " ".join(words)}
    length = min(len(words), _MAX_WORDS)
    for key, values in (("vision", parts[1]), ("audio", parts[2])):
        if not isinstance(values, np.ndarray) or values.ndim != 2 or len(values) != len(words):
            found = getattr(values, "shape", type(values).__name__)
            raise InputError(
                f"{where}: {key} is {found}, expected {len(words)} rows, one for each word; use "
                "data that are aligned by word"
            )
        entries[key] = np.pad(values[-_MAX_WORDS:], ((0, _MAX_WORDS - length), (0, 0)))
        entries[f"{key}_lengths"] = length
    return entries


def _word(where: str, word: object) -> str:
    """Return a word as text; spaces in it, which would make it two words, become "_"."""
    if isinstance(word, bytes):
        word = word.decode("utf-8", errors="replace")
    if not isinstance(word, str):
        raise InputError(f"{where}: a word is of type {type(word).__name__}, expected text")
    return word.replace(" ", "_")
