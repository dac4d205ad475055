"""Reading CMU-MOSEI as it circulates: the processed pickles of MMSA and of MulT.

MMSA (github.com/thuiar/MMSA) has `aligned_50.pkl` and `unaligned_50.pkl`; MulT
(github.com/yaohungt/Multimodal-Transformer) has `mosei_senti_data.pkl`,
`mosei_senti_data_noalign.pkl` and BERT variants of them. MOSI and SIMS files have the same form.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from data.formats import safe_pickle
from system.errors import InputError

# The width of BERT's features, which tells them from GloVe's (300).
_BERT_WIDTH = 768

# The split's name in the file, and ours.
_SPLITS = {"train": "train", "valid": "val", "test": "test"}

# "video$_$clip" (MMSA) or "video[clip]" (the CMU SDK).
_ID_WITH_CLIP = re.compile(r"(.+)\$_\$(.+)|(.+)\[([^\[\]]+)\]")

# What a segment's labels may look like: one sentiment, or sentiment and six emotions.
_LABEL_SHAPES = [(), (1,), (7,), (1, 1), (1, 7)]


@dataclass(frozen=True)
class PickleSplit:
    """One split of a processed pickle: N segments, in the file's order."""

    ids: list[str]  # "video[clip]"
    videos: list[str]
    starts: np.ndarray | None  # (N,) float64, seconds, where the file has them
    ends: np.ndarray | None  # (N,) float64, seconds, likewise
    visual: np.ndarray  # (N, Tv, Cv) float32, zero padding in front
    audio: np.ndarray  # (N, Ta, Ca) float32, zero padding in front
    labels: np.ndarray  # (N, 1, 1 or 7) float32, sentiment first
    text: np.ndarray | None  # (N, Tt, 768) float32, the file's BERT features
    sentences: list[str] | None
    pieces: tuple[np.ndarray, np.ndarray] | None  # input ids and mask, (N, T) int64 each


def read_pickle(path: Path) -> dict[str, PickleSplit]:
    """Return the splits `train`, `val` and `test` of a processed pickle.

    NaN and infinities stay. Each split has one of `text`, `sentences` and `pieces` at least.
    Where the file has no clip numbers, the segments of a video are numbered from 0 in the
    file's order.

    Raises InputError if the file is no such pickle, holds what could run code, lacks what a
    split needs, or has arrays that do not fit together.
    """
    splits = _open_splits(path)
    read = {
        ours: _read_split(_Fields(path, theirs, splits.pop(theirs)))
        for theirs, ours in _SPLITS.items()
    }
    for key in ("visual", "audio", "labels"):
        widths = {name: getattr(split, key).shape[2] for name, split in read.items()}
        if len(set(widths.values())) > 1:
            raise InputError(
                f"{path}: {key} is {widths['train']} wide in train, {widths['val']} in valid "
                f"and {widths['test']} in test, expected the same; use a file of one feature set"
            )
    return read


def move_padding_to_front(values: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Return `values` `(N, T, C)` with zero rows at the back of a segment moved to its front.

    `lengths` `(N,)` says how many of a segment's first rows are its own, so that zero rows
    among them stay where they are; a row that is not zero is never taken for padding. Without
    lengths, all zero rows at the back count as padding, unless there are as many or more at
    the front over all segments: then the padding is there already, and zero rows at the back
    are content.
    """
    steps = values.shape[1]
    filled = values.any(axis=2)
    empty = ~filled.any(axis=1)
    trailing = np.where(empty, steps, filled[:, ::-1].argmax(axis=1))
    if lengths is not None:
        trailing = np.minimum(trailing, steps - lengths)
    elif trailing.sum() <= np.where(empty, steps, filled.argmax(axis=1)).sum():
        return values
    if not trailing.any():
        return values
    source = (np.arange(steps) - trailing[:, None]) % steps
    return values[np.arange(len(values))[:, None], source]


class _Fields:
    """The entries of one split, taken out one by one so that their memory is freed."""

    def __init__(self, path: Path, split: str, entries: dict[str, Any]) -> None:
        self._where = f"{path}: split {split!r}"
        self._entries = entries
        self._names = _listed(entries)
        self.ids = self._take_items("id")
        self.count = len(self.ids)
        if self.count == 0:
            raise InputError(f"{self._where} is empty, expected segments; use a complete file")

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def error(
        self,
        key: str,
        found: str,
        expected: str,
        advice: str = "check that the file is complete and as MMSA or MulT published it",
    ) -> InputError:
        return InputError(f"{self._where}, {key!r}: found {found}, expected {expected}; {advice}")

    def texts(self, key: str) -> list[str]:
        """Take one text a segment."""
        items = self._take_items(key)
        if len(items) != self.count:
            raise self.error(key, f"{len(items)} items", f"{self.count}, one for each 'id'")
        if any(len(item) != 1 for item in items):
            raise self.error(key, "rows of several items", "one text for each 'id'")
        return [self.as_text(key, item[0]) for item in items]

    def as_text(self, key: str, value: object) -> str:
        """Return `value` as text; Python 2 may have left bytes of UTF-8 or Latin-1."""
        if isinstance(value, bytes):
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError:
                return value.decode("latin-1")
        if not isinstance(value, str):
            raise self.error(key, _described(value), "text")
        return str(value)

    def numbers(self, key: str) -> np.ndarray:
        """Take an array of numbers, or a list of them, with one item a segment."""
        value = self._take(key)
        if isinstance(value, (list, tuple)) and all(
            isinstance(item, (int, float, np.number)) for item in value
        ):
            value = np.array(value)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise self.error(key, _described(value), "an array of numbers")
        if value.ndim == 0 or len(value) != self.count:
            found = f"shape {value.shape}"
            raise self.error(key, found, f"{self.count} items, one for each 'id'")
        return value

    def features(self, key: str) -> np.ndarray:
        """Take features as float32, `(N, rows, channels)`."""
        value = self.numbers(key)
        if value.ndim != 3 or 0 in value.shape:
            raise self.error(key, f"shape {value.shape}", f"shape ({self.count}, rows, channels)")
        return value.astype(np.float32, copy=False)

    def whole(self, key: str, values: np.ndarray, most: int) -> np.ndarray:
        """Return `values`, whole numbers of any type from 0 to `most`, as int64."""
        good = (values >= 0) & (values <= most) & (values == np.floor(values))
        if not good.all():
            raise self.error(key, str(values[~good][0]), f"a whole number from 0 to {most}")
        return values.astype(np.int64, copy=False)

    def _take(self, key: str) -> Any:
        if key not in self._entries:
            raise InputError(
                f"{self._where} has no {key!r}, only {self._names}; "
                "use a file as MMSA or MulT published it"
            )
        return self._entries.pop(key)

    def _take_items(self, key: str) -> list[list]:
        """Take a list or array of plain values, or of rows of them, as a list of rows."""
        value = self._take(key)
        try:
            if isinstance(value, np.ndarray):
                return value.reshape(len(value), -1).tolist() if value.size else []
            if isinstance(value, (list, tuple)):
                return [_row(item) for item in value]
        except (TypeError, ValueError):  # An array without dimensions, an empty row.
            pass
        raise self.error(key, _described(value), "a list or an array, one item for each segment")


def _row(item: object) -> list:
    if isinstance(item, np.ndarray):
        return item.ravel().tolist()
    row = list(item) if isinstance(item, (list, tuple)) else [item]
    if not row:
        raise ValueError("an empty row")
    return row


def _described(value: object) -> str:
    """Return a short description of a value of which nothing is known, its size included."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    if isinstance(value, (str, bytes, float)):
        return repr(value)[:60]
    return f"a value of type {type(value).__name__}"


def _listed(entries: dict[str, Any]) -> str:
    return ", ".join(repr(key)[:60] for key in list(entries)[:20]) or "nothing"


def _open_splits(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of the file's splits, by the file's own names."""
    splits = _with_text_keys(safe_pickle.load(path))
    names = ", ".join(map(repr, _SPLITS))
    if splits is None or not splits.keys() >= _SPLITS.keys():
        found = "something else" if splits is None else _listed(splits)
        raise InputError(
            f"{path}: holds {found}, expected a dict with {names}; "
            "use a processed pickle as MMSA or MulT published it"
        )
    entries = {name: _with_text_keys(splits[name]) for name in _SPLITS}
    for name, split in entries.items():
        if split is None:
            raise InputError(
                f"{path}: split {name!r} is {_described(splits[name])}, expected a dict of "
                "arrays; use a processed pickle as MMSA or MulT published it"
            )
    return entries


def _with_text_keys(value: object) -> dict[str, Any] | None:
    """Return a copy of a dict, with the bytes that Python 2 has for keys as text."""
    if not isinstance(value, dict):
        return None
    named = {
        key.decode("latin-1") if isinstance(key, bytes) else key: item
        for key, item in value.items()
    }
    return {key: item for key, item in named.items() if isinstance(key, str)}


def _read_split(fields: _Fields) -> PickleSplit:
    ids, videos, starts, ends = _read_ids(fields)
    visual, audio = _read_rows(fields, "vision"), _read_rows(fields, "audio")
    labels = _read_labels(fields)
    text, sentences, pieces = _read_text(fields)
    return PickleSplit(ids, videos, starts, ends, visual, audio, labels, text, sentences, pieces)


def _read_ids(
    fields: _Fields,
) -> tuple[list[str], list[str], np.ndarray | None, np.ndarray | None]:
    """Return ids, videos, starts and ends; a row is `[id]` or `[id, start, end]`."""
    widths = {len(row) for row in fields.ids}
    if widths not in ({1}, {3}):
        found = f"rows of {' and '.join(map(str, sorted(widths)))} items"
        raise fields.error("id", found, "an id, or rows of video, start and end")
    clips_seen = defaultdict(count)
    ids, videos = [], []
    for row in fields.ids:
        name = fields.as_text("id", row[0])
        match = _ID_WITH_CLIP.fullmatch(name)
        video, clip = filter(None, match.groups()) if match else (name, None)
        clip = next(clips_seen[video]) if clip is None else clip
        ids.append(f"{video}[{clip}]")
        videos.append(video)
    if widths == {1}:
        return ids, videos, None, None
    return ids, videos, _read_times(fields, 1), _read_times(fields, 2)


def _read_times(fields: _Fields, column: int) -> np.ndarray:
    """Return one column of the ids, `(N,)` float64; times may be numbers or their text."""
    times = np.empty(fields.count)
    for index, row in enumerate(fields.ids):
        try:
            times[index] = float(row[column])
        except (TypeError, ValueError, OverflowError):
            raise fields.error("id", _described(row[column]), "a time in seconds") from None
    return times


def _read_rows(fields: _Fields, key: str) -> np.ndarray:
    values = fields.features(key)
    lengths_key = f"{key}_lengths"
    if lengths_key not in fields:
        return move_padding_to_front(values)
    lengths = fields.numbers(lengths_key)
    if lengths.ndim != 1:
        raise fields.error(lengths_key, f"shape {lengths.shape}", f"shape ({fields.count},)")
    return move_padding_to_front(values, fields.whole(lengths_key, lengths, values.shape[1]))


def _read_labels(fields: _Fields) -> np.ndarray:
    key = "regression_labels" if "regression_labels" in fields else "labels"
    values = fields.numbers(key)
    if values.shape[1:] not in _LABEL_SHAPES:
        expected = f"shape ({fields.count}, 1, 1 or 7)"
        raise fields.error(key, f"shape {values.shape}", expected)
    wrong = np.flatnonzero(~np.isfinite(values.reshape(fields.count, -1)).all(axis=1))
    if len(wrong):
        found = f"a label that is no number, of segment {fields.ids[wrong[0]]}"
        raise fields.error(key, found, "numbers")
    return values.astype(np.float32, copy=False).reshape(fields.count, 1, -1)


def _read_text(
    fields: _Fields,
) -> tuple[np.ndarray | None, list[str] | None, tuple[np.ndarray, np.ndarray] | None]:
    """Return BERT features, sentences and word pieces, each where the file has it."""
    sentences = fields.texts("raw_text") if "raw_text" in fields else None
    pieces = _read_pieces(fields) if "text_bert" in fields else None
    text = fields.features("text") if "text" in fields else None
    if text is not None and text.shape[2] == _BERT_WIDTH:
        return text, sentences, pieces
    if sentences is None and pieces is None:
        width = "no array" if text is None else f"{text.shape[2]} wide"
        glove = " (GloVe)" if text is not None and text.shape[2] == 300 else ""
        raise fields.error(
            "text",
            f"{width}{glove}, and neither 'raw_text' nor 'text_bert' to compute BERT features from",
            f"{_BERT_WIDTH} wide (BERT), or one of those two",
            "use MMSA's file or a BERT variant of MulT's",
        )
    return None, sentences, pieces


def _read_pieces(fields: _Fields) -> tuple[np.ndarray, np.ndarray]:
    """Return the input ids and the mask of `text_bert`, whose third row, segments, is all 0."""
    values = fields.numbers("text_bert")
    if values.ndim != 3 or values.shape[1] != 3 or values.shape[2] == 0:
        raise fields.error(
            "text_bert", f"shape {values.shape}", f"shape ({fields.count}, 3, pieces)"
        )
    largest_id = np.iinfo(np.int32).max
    return (
        fields.whole("text_bert", values[:, 0], largest_id),
        fields.whole("text_bert", values[:, 1], 1),
    )
