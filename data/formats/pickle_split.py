"""One split of a processed pickle, in one form for all file formats."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from itertools import count
from typing import Any

import numpy as np

from data.formats.pickle_fields import Fields, describe

# "video$_$clip" (MMSA) or "video[clip]" (the CMU SDK).
_ID_WITH_CLIP = re.compile(r"(.+)\$_\$(.+)|(.+)\[([^\[\]]+)\]")

# The shapes of a segment's labels: one sentiment, or sentiment and six emotions.
_LABEL_SHAPES = [(), (1,), (7,), (1, 1), (1, 7)]


@dataclass(frozen=True)
class Names:
    """The ids and times of the N segments of a split."""

    ids: list[str]  # "video[clip]"
    videos: list[str]
    keys: Sequence[Hashable] | None  # equal for the same segment in another file
    times: np.ndarray | None = None  # (N, 2) float64, start and end in seconds; None: unknown


@dataclass(frozen=True)
class PickleSplit:
    """One split of a processed pickle: N segments, in the file's order."""

    names: Names
    visual: np.ndarray  # (N, Tv, Cv) float32, zero padding in front
    audio: np.ndarray  # (N, Ta, Ca) float32, zero padding in front
    labels: np.ndarray | None  # (N, 1, 1 or 7) float32, sentiment first; None: unlabelled
    text: np.ndarray | None  # (N, Tt, any width) float32, the file's own features
    sentences: list[str] | None
    pieces: np.ndarray | None  # input ids and mask, (N, 2, T) int64

    def select(self, rows: np.ndarray) -> PickleSplit:
        """Return the segments with these numbers."""
        selected: PickleSplit = _select(self, rows)
        return selected


def _select(value: Any, rows: np.ndarray) -> Any:
    if isinstance(value, (PickleSplit, Names)):
        return type(value)(*(_select(getattr(value, x.name), rows) for x in fields_of(value)))
    if isinstance(value, list):
        return [value[row] for row in rows]
    return value if value is None else value[rows]


def read_split(fields: Fields, name: str) -> PickleSplit:
    """Read a split; keeps NaN and infinity in features. `name` is used for missing ids."""
    names = read_names(fields, name)
    visual, audio = read_rows(fields, "vision"), read_rows(fields, "audio")
    labels = _read_labels(fields)
    text = read_rows(fields, "text", is_padded=True) if "text" in fields else None
    sentences = fields.texts("raw_text") if "raw_text" in fields else None
    pieces = _read_pieces(fields) if "text_bert" in fields else None
    if text is None and sentences is None and pieces is None:
        raise fields.error("text", "no array, no 'raw_text', no 'text_bert'", "one of them")
    return PickleSplit(names, visual, audio, labels, text, sentences, pieces)


def read_names(fields: Fields, name: str) -> Names:
    """Return ids, videos and times; a row of `id` is `[id]` or `[id, start, end]`.

    Where the file has no clip numbers, the segments of a video are numbered from 0 in the
    file's order; without ids, they are numbered as those of a video called `name`.
    """
    if fields.ids is None:
        return Names([f"{name}[{k}]" for k in range(fields.count)], [name] * fields.count, None)
    widths = {len(row) for row in fields.ids}
    if widths not in ({1}, {3}):
        found = f"rows of {' and '.join(map(str, sorted(widths)))} items"
        raise fields.error("id", found, "an id, or rows of video, start and end")
    clips_seen: defaultdict[str, count[int]] = defaultdict(count)
    ids, videos, keys = [], [], []
    for row in fields.ids:
        text = fields.as_text("id", row[0])
        match = _ID_WITH_CLIP.fullmatch(text)
        video, clip = filter(None, match.groups()) if match else (text, None)
        keys.append(text if clip is None else f"{video}[{clip}]")
        clip = next(clips_seen[video]) if clip is None else clip
        ids.append(f"{video}[{clip}]")
        videos.append(video)
    if widths == {1}:
        return Names(ids, videos, keys)
    times = np.array([[_seconds(fields, time) for time in row[1:]] for row in fields.ids])
    return Names(ids, videos, list(zip(videos, *times.T.tolist(), strict=True)), times)


def _seconds(fields: Fields, time: Any) -> float:
    """Return a time of an `id`, which may be text in the file."""
    try:
        return float(time)
    except (TypeError, ValueError, OverflowError):
        raise fields.error("id", describe(time), "a time in seconds") from None


def read_rows(fields: Fields, key: str, is_padded: bool = False) -> np.ndarray:
    """Return features `(N, rows, channels)`, their padding in front unless it `is_padded`."""
    values, lengths = fields.features(key)
    lengths_key = f"{key}_lengths"
    if is_padded and lengths is None:
        return values
    if lengths_key in fields:
        lengths = fields.numbers(lengths_key)
        if lengths.ndim != 1:
            raise fields.error(lengths_key, f"shape {lengths.shape}", f"shape ({fields.count},)")
        lengths = fields.integers(lengths_key, lengths, values.shape[1])
    return move_padding_to_front(values, lengths)


def move_padding_to_front(values: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Return `values` `(N, T, C)` with zero rows at the end of a segment moved to its front.

    `lengths` `(N,)` says how many of a segment's first rows are content: zero rows among these
    stay in place. A row that is not zero never counts as padding. Without lengths, all zero rows
    at the end count as padding, unless there are as many or more in front over all segments:
    then the padding is already in front, and zero rows at the end are content.
    """
    steps = values.shape[1]
    filled: np.ndarray = np.any(values, axis=2)
    empty = ~filled.any(axis=1)
    trailing = np.where(empty, steps, filled[:, ::-1].argmax(axis=1))
    if lengths is not None:
        trailing = np.minimum(trailing, steps - lengths)
    elif trailing.sum() <= np.where(empty, steps, filled.argmax(axis=1)).sum():
        return values
    if not trailing.any():
        return values
    source = (np.arange(steps) - trailing[:, None]) % steps
    moved: np.ndarray = values[np.arange(len(values))[:, None], source]
    return moved


def _read_labels(fields: Fields) -> np.ndarray | None:
    key = "regression_labels" if "regression_labels" in fields else "labels"
    if key not in fields:
        return None
    values = fields.numbers(key)
    if values.shape[1:] not in _LABEL_SHAPES:
        expected = f"shape ({fields.count}, 1, 1 or 7)"
        raise fields.error(key, f"shape {values.shape}", expected)
    return values.astype(np.float32, copy=False).reshape(fields.count, 1, -1)


def _read_pieces(fields: Fields) -> np.ndarray:
    """Return the input ids and the mask of `text_bert`; its third row, segment types, is all 0."""
    values = fields.numbers("text_bert")
    if values.ndim != 3 or values.shape[1] != 3 or values.shape[2] == 0:
        raise fields.error(
            "text_bert", f"shape {values.shape}", f"shape ({fields.count}, 3, pieces)"
        )
    largest_id = np.iinfo(np.int32).max
    ids = fields.integers("text_bert", values[:, 0], largest_id)
    pieces = np.stack([ids, fields.integers("text_bert", values[:, 1], 1)], axis=1)
    return np.ascontiguousarray(pieces)  # else the file's memory order is kept
