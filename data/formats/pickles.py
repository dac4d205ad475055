"""Reading the processed pickles in which CMU-MOSEI, CMU-MOSI and SIMS are shared.

MMSA (github.com/thuiar/MMSA) has `aligned_50.pkl` and `unaligned_50.pkl`, and so has what its
feature extraction writes; MulT (github.com/yaohungt/Multimodal-Transformer) has
`mosei_senti_data.pkl` and `mosei_senti_data_noalign.pkl`. For segments word by word see
`data.formats.word_pickles`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.formats import safe_pickle
from data.formats.pickle_fields import ALWAYS_FITS, MAX_PADDING, Fields, describe, list_names
from data.formats.pickle_split import Names, PickleSplit, read_names, read_rows, read_split
from data.formats.word_pickles import SPLIT_NAMES, as_entries
from data.layout import SPLITS
from system.errors import InputError, explain_reading

_ADVICE = "use a processed pickle as it was published"
_FEATURES = {"audio": "audio", "visual": "vision"}  # by modality, the entry in a pickle


@dataclass(frozen=True)
class PickleContent:
    """What a processed pickle, or a folder of them, holds."""

    splits: dict[str, PickleSplit]  # all of train, val and test, or one of them
    is_by_word: bool  # row t of all modalities is word t
    without_words: int  # the number of segments left out because they have no word


def read_pickle(path: Path) -> PickleContent:
    """Return the splits of a processed pickle, or of a folder with a pickle for each.

    A file of arrays without splits is the test split. Raises InputError if the file is something
    else, could run code, lacks entries that a split needs, or has arrays that do not fit together.
    """
    splits, are_by_word, without_words = {}, [], 0
    with explain_reading(path):
        for name, fields, left_out in _open_splits(path):
            splits[name] = read_split(fields, name)
            are_by_word.append(left_out is not None)
            without_words += left_out or 0
        for key in ("visual", "audio", "labels", "text"):
            _check_widths(path, key, {name: getattr(splits[name], key) for name in splits})
        splits = _pad_to_one_length(path, splits)
    in_order = {name: splits[name] for name in SPLITS if name in splits}
    return PickleContent(in_order, all(are_by_word), without_words)


def read_features(path: Path, kind: str) -> tuple[np.ndarray, dict[Hashable, int]]:
    """Return the features of one modality in all splits, and each segment's row by its key.

    Features are `(N, longest of the file, width)` float32; `kind` is audio or visual. Raises
    InputError when the file cannot be read, has no ids, or has an id twice.
    """
    names, parts = [], {}
    with explain_reading(path):
        for split, fields, _ in _open_splits(path):
            names.append(read_names(fields, split))
            parts[split] = read_rows(fields, _FEATURES[kind])
    keys = keys_of(path, names)
    _check_widths(path, kind, parts)
    padded = _pad(path, kind, list(parts.values()))
    return np.concatenate(padded), {key: row for row, key in enumerate(keys)}


def _pad_to_one_length(path: Path, splits: dict[str, PickleSplit]) -> dict[str, PickleSplit]:
    """Pad features to the same number of rows in all splits, and word pieces to one number.

    Where a file has an array per segment, a split is as long as its longest segment.
    """
    for kind in ("visual", "audio", "text", "pieces"):
        parts = [getattr(split, kind) for split in splits.values()]
        if all(part is not None for part in parts):
            for name, part in zip(list(splits), _pad(path, kind, parts), strict=True):
                values: dict[str, Any] = {kind: part}
                splits[name] = replace(splits[name], **values)
    return splits


def _pad(path: Path, kind: str, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pad the rows of several splits with zeros to the same number.

    Zeros are in front in visual and audio, at the end of pieces, and where most of it is in text.
    Raises InputError if padding takes far more memory than the parts themselves.
    """
    axis = 2 if kind == "pieces" else 1  # pieces are ids and mask, (N, 2, T)
    lengths = [part.shape[axis] for part in parts]
    longest, stored = max(lengths), sum(part.nbytes for part in parts)
    size = sum(part.nbytes // length * longest for part, length in zip(parts, lengths, strict=True))
    if size > ALWAYS_FITS and size > MAX_PADDING * stored:
        entry = "text_bert" if kind == "pieces" else kind
        raise InputError(
            f"{path}: {entry} has from {min(lengths):,} to {longest:,} rows a segment, expected "
            f"lengths that are more alike from split to split; {_ADVICE}"
        )
    is_at_end = kind == "pieces" or (kind == "text" and _starts_first(parts))
    padded = []
    for part, length in zip(parts, lengths, strict=True):
        widths = [(0, 0)] * part.ndim
        widths[axis] = (0, longest - length) if is_at_end else (longest - length, 0)
        padded.append(np.pad(part, widths) if length < longest else part)
    return padded


def _starts_first(parts: Sequence[np.ndarray]) -> bool:
    """Tell whether text `(N, T, C)` starts in the first row, as [CLS] does, rather than later."""
    first, last = (sum(int(x[:, row].any(axis=1).sum()) for x in parts) for row in (0, -1))
    return first >= last


def keys_of(path: Path, splits: Sequence[Names]) -> list[Hashable]:
    """Return the keys by which segments are joined; raises InputError unless they are unique."""
    if any(names.keys is None for names in splits):
        raise InputError(f"{path} has no 'id', by which another file's segments could be joined.")
    keys = [key for names in splits for key in names.keys or ()]
    if len(set(keys)) < len(keys):
        repeated = Counter(keys).most_common(1)[0][0]
        raise InputError(f"{path} has the id {repeated!r} twice; files are joined by unique ids.")
    return keys


def _check_widths(path: Path, key: str, arrays: Mapping[str, np.ndarray | None]) -> None:
    widths = {name: array.shape[2] for name, array in arrays.items() if array is not None}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{width} in {name}" for name, width in widths.items())
        raise InputError(
            f"{path}: {key} is of different widths ({found}), expected the same; use a file of one "
            "feature set"
        )


def _open_splits(path: Path) -> Iterator[tuple[str, Fields, int | None]]:
    """Yield our name of each split, its entries, and the number of segments without words.

    The number is None if the split is not a list of segments word by word.
    """
    splits = _read_folder(path) if path.is_dir() else _read_file(path)
    names = [SPLIT_NAMES[theirs] for theirs in splits]
    if len(set(names)) not in (1, len(SPLITS)) or len(set(names)) < len(names):
        raise InputError(
            f"{path}: holds {list_names(splits)}, expected 'train', 'valid', 'test', each once, or "
            f"one split; {_ADVICE}"
        )
    for theirs, ours in zip(list(splits), names, strict=True):
        content, left_out = splits.pop(theirs), None
        if not isinstance(content, (list, tuple)):
            entries = _with_text_keys(content)
        else:
            entries, left_out = as_entries(f"{path}: split {theirs!r}", content)
        if entries is None:
            raise InputError(
                f"{path}: split {theirs!r} is {describe(content)}, expected a dict of arrays, or "
                f"a list of segments; {_ADVICE}"
            )
        del content
        yield ours, Fields(path, theirs, entries), left_out


def _read_folder(path: Path) -> dict[str, Any]:
    files = {name: path / f"{name}.pkl" for name in SPLIT_NAMES}
    splits = {name: safe_pickle.load(file) for name, file in files.items() if file.is_file()}
    if not splits:
        raise InputError(f"{path}: no train.pkl, dev.pkl or test.pkl in this folder; {_ADVICE}")
    return splits


def _read_file(path: Path) -> dict[str, Any]:
    content = _with_text_keys(safe_pickle.load(path))
    if content is None or not content:
        found = "nothing" if content == {} else "something else"
        raise InputError(
            f"{path}: holds {found}, expected a dict with 'train', 'valid', 'test'; {_ADVICE}"
        )
    splits = {name: content[name] for name in SPLIT_NAMES if name in content}
    if splits:
        others = [name for name in content if name not in splits]
        if others:
            warnings.warn(
                f"{path}: {list_names(others)} in it is not used: names of splits are "
                f"{list_names(SPLIT_NAMES)}",
                stacklevel=2,
            )
        return splits
    if "vision" in content or "feature_V" in content:
        return {"test": content}
    raise InputError(
        f"{path}: holds {list_names(content)}, expected 'train', 'valid' and 'test'; {_ADVICE}"
    )


def _with_text_keys(value: object) -> dict[str, Any] | None:
    """Return a copy of a dict with text keys; Python 2's are bytes. None if it is no dict."""
    if not isinstance(value, dict):
        return None
    named = {
        key.decode("latin-1") if isinstance(key, bytes) else key: item
        for key, item in value.items()
    }
    return {key: item for key, item in named.items() if isinstance(key, str)}
