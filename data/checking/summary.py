"""Statistics of a split's arrays, and whether anything can be learnt from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.checking.problem import Problem, Remedy
from data.labels import Scale

_MAX_USELESS = 0.5  # the share of a split's segments, word pieces or sentences
_ADVICE = "prepare again with a --bert for this language"


@dataclass
class ArraySummary:
    """Statistics of an array `(segments, rows, features)`, gathered block by block."""

    file: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    nan: int = 0  # how many values
    infinite: int = 0
    first_not_finite: int | None = None  # number of the segment
    zero_rows: int = 0
    padding_rows: int = 0  # zero rows in front of a segment
    empty_segments: int = 0  # those in which no value is finite and other than 0
    segment_hashes: list[int] = field(default_factory=list)  # of text: equal for equal features
    minimum: float = np.inf  # of the finite values
    maximum: float = -np.inf

    @property
    def rows(self) -> int:
        """The number of rows in all segments together."""
        return self.shape[0] * self.shape[1]

    @property
    def is_unlabelled(self) -> bool:
        """Tell whether all values are NaN: an array of labels then has no labels."""
        return self.nan == math.prod(self.shape) > 0

    @property
    def empty_share(self) -> float:
        """The share of segments without a value that is finite and other than 0."""
        return self.empty_segments / max(self.shape[0], 1)

    @property
    def padding(self) -> float:
        """The share of rows that are zeros in front of a segment."""
        return self.padding_rows / max(self.rows, 1)

    def add(self, block: np.ndarray, first_segment: int) -> None:
        """Add the next segments, the first of which has this number."""
        filled: np.ndarray = np.any(block, axis=2)
        has_values = filled.any(axis=1)
        lowest, highest = block.min(), block.max()  # NaN where there is a NaN
        if not np.isfinite([lowest, highest]).all():
            finite = np.isfinite(block)
            nan = int(np.count_nonzero(np.isnan(block)))
            self.nan += nan
            self.infinite += block.size - int(np.count_nonzero(finite)) - nan
            if self.first_not_finite is None:
                self.first_not_finite = first_segment + int(finite.all(axis=(1, 2)).argmin())
            lowest = block.min(where=finite, initial=np.inf)
            highest = block.max(where=finite, initial=-np.inf)
            has_values = (finite & (block != 0)).any(axis=(1, 2))
        self.minimum = min(self.minimum, float(lowest))
        self.maximum = max(self.maximum, float(highest))
        self.empty_segments += int(np.count_nonzero(~has_values))
        self.zero_rows += int(np.count_nonzero(~filled))
        self.padding_rows += int(np.count_nonzero(~np.logical_or.accumulate(filled, axis=1)))


@dataclass(frozen=True)
class SplitSummary:
    """Statistics of a split."""

    arrays: dict[str, ArraySummary]  # by kind: visual, audio, label, text
    sentiments: np.ndarray  # float32, those that are numbers
    seconds: np.ndarray  # the segments' lengths, float64, where the table has valid times

    def class_shares(self, scale: Scale) -> dict[str, float]:
        """Return the share of each class by its name, lowest class first."""
        counts = np.bincount(scale.classes(self.sentiments), minlength=len(scale.class_names))
        shares = counts / max(len(self.sentiments), 1)
        return dict(zip(scale.class_names, shares.tolist(), strict=True))


def useless_features(
    summary: SplitSummary, sentences: Sequence[str], unknown: float
) -> Iterator[Problem]:
    """Report features that carry no information in more than half of a split.

    `sentences` are the table's, empty without a table; `unknown` is the share of word pieces
    that the text encoder did not know.
    """
    for kind, array in summary.arrays.items():
        if kind != "label" and array.empty_share > _MAX_USELESS:
            yield Problem(
                array.file,
                f"{array.file}: all zero, NaN or infinite in {100 * array.empty_share:.0f} % of "
                "the segments; expected values.",
                Remedy.NONE,
            )
    text = summary.arrays.get("text")
    if text is None:
        return
    if unknown > _MAX_USELESS:
        yield Problem(
            text.file,
            f"{text.file}: the text encoder did not know {100 * unknown:.0f} % of the word "
            f"pieces; {_ADVICE}.",
            Remedy.NONE,
        )
    equal = 0.0
    if len(sentences) == len(text.segment_hashes) > 0 and text.empty_share <= _MAX_USELESS:
        hash_of = dict(zip(sentences, text.segment_hashes, strict=True))
        hash_counts = Counter(hash_of.values())
        equal = sum(count for count in hash_counts.values() if count > 1) / len(hash_of)
    if equal > _MAX_USELESS:
        yield Problem(
            text.file,
            f"{text.file}: {100 * equal:.0f} % of the different sentences have the features of "
            f"another; {_ADVICE}.",
            Remedy.NONE,
        )
