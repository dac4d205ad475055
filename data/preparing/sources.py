"""Where a dataset comes from: .csd files, or a processed pickle.

Each source says what decides the arrays' content, and writes the arrays of all splits.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.fetching.server import Dataset
from data.formats.csd import ComputationalSequence
from data.formats.folds import read_folds
from data.formats.pickles import PickleSplit, read_pickle
from data.layout import PIECES_FILE, SPLITS, TEXT_FILE
from data.preparing.segments import Lengths, Sequences
from data.preparing.split_writer import SplitWriter
from system.errors import InputError
from system.files import file_facts


@dataclass(frozen=True)
class WriteResult:
    """What a source wrote."""

    counts: dict[str, dict[str, int]]  # by split: segments, videos
    left_out: dict[str, int]  # rows of the labels file, by reason
    text: dict[str, Any] | None = None  # the text features' description, when it brought them


class DataSource(Protocol):
    """What both sources can do."""

    title: str  # the dataset's name
    uses_own_text: bool  # text features that the source has are taken, not computed
    is_by_word: bool  # a row of the arrays is a word, and the text wants one vector a word

    @property
    def made_from(self) -> dict[str, Any]:
        """Everything that decides what the arrays hold, as plain values."""

    def estimate(self) -> tuple[dict[str, int], int] | None:
        """Return the most segments that each split can get, and a segment's bytes, if known."""

    def write(self, stage: Path) -> WriteResult:
        """Write all splits below `stage`; raises InputError for anything wrong."""


@dataclass(frozen=True)
class CsdSource:
    """Computational sequences, to be aligned."""

    paths: dict[str, Path]  # of the four files, by what they hold
    dataset: Dataset
    folds: Path
    alignment: str
    lengths: Lengths
    uses_own_text = False  # there is none

    @property
    def title(self) -> str:
        """The dataset's name."""
        return self.dataset.title

    @property
    def is_by_word(self) -> bool:
        """Only `word` aligns the text as well."""
        return self.alignment == "word"

    @property
    def _shapes(self) -> dict[str, tuple[int, int]]:
        return {
            "visual": (self.lengths.visual, self.dataset.visual.width),
            "audio": (self.lengths.audio, self.dataset.audio.width),
            "label": (1, self.dataset.labels.width),
        }

    @cached_property  # the files are sampled once
    def made_from(self) -> dict[str, Any]:
        """The files, how they are aligned, and the folds."""
        return {
            "dataset": self.title,
            "alignment": self.alignment,
            "lengths": asdict(self.lengths),
            "files": {kind: file_facts(path) for kind, path in self.paths.items()},
            "folds": file_facts(self.folds),
        }

    def estimate(self) -> tuple[dict[str, int], int]:
        """Count the rows of the labels file: no more segments can come out."""
        split_of, segments = read_folds(self.folds), dict.fromkeys(SPLITS, 0)
        with ComputationalSequence(self.paths["labels"], self.dataset.labels.width) as labels:
            for video in labels.videos & split_of.keys():
                segments[split_of[video]] += len(labels.read_unsorted(video)[0])
        return segments, 4 * sum(rows * width for rows, width in self._shapes.values())

    def write(self, stage: Path) -> WriteResult:
        """Align video by video, writing each segment as it comes."""
        split_of, shapes = read_folds(self.folds), self._shapes
        left_out: Counter[str] = Counter()
        with ExitStack() as stack:
            sequences = stack.enter_context(Sequences(self.dataset, self.paths))
            writers = {
                split: stack.enter_context(SplitWriter(stage / split, shapes)) for split in SPLITS
            }
            for segment in sequences.segments(split_of, self.alignment, self.lengths, left_out):
                arrays = {kind: getattr(segment, kind)[None] for kind in shapes}
                sentence = " ".join(segment.words)
                row = segment.id, segment.video, segment.start, segment.end, sentence
                writers[segment.split].write(arrays, [row])
        counts = {split: writer.counts for split, writer in writers.items()}
        if not any(count["segments"] for count in counts.values()):
            raise _nothing_left(+left_out)
        return WriteResult(counts, dict(+left_out))


def _nothing_left(left_out: Counter[str]) -> InputError:
    reasons = ", ".join(f"{count} because the {reason}" for reason, count in left_out.items())
    return InputError(f"No segment is left ({reasons}); check that the .csd files belong together.")


@dataclass(frozen=True)
class PickleSource:
    """A processed pickle; with `uses_own_text`, its BERT features are taken where it has some."""

    path: Path
    uses_own_text: bool
    is_by_word = False  # these files align words with positions of the text, [CLS] first

    @property
    def title(self) -> str:
        """The file's name stands for the dataset's."""
        return self.path.stem

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """The file, and what is taken from it."""
        return {
            "dataset": self.title,
            "alignment": f"as in {self.path.name}",
            "files": {"pickle": file_facts(self.path)},
            "uses_own_text": self.uses_own_text,
        }

    def estimate(self) -> None:
        """Nothing is known before the whole file is read."""

    def write(self, stage: Path) -> WriteResult:
        """Copy the arrays, split by split."""
        splits = read_pickle(self.path)
        takes_text = self.uses_own_text and all(split.text is not None for split in splits.values())
        if not takes_text:
            self._refuse_without_words(splits)
        counts = {}
        for name in SPLITS:
            split = splits.pop(name)
            arrays = {"visual": split.visual, "audio": split.audio, "label": split.labels}
            shapes = {kind: array.shape[1:] for kind, array in arrays.items()}
            with SplitWriter(stage / name, shapes) as writer:
                writer.write(arrays, _table(split))
            counts[name] = writer.counts
            if takes_text:
                np.save(stage / name / TEXT_FILE, split.text)
            elif split.sentences is None:
                np.save(stage / name / PIECES_FILE, np.stack(split.pieces, axis=1))
        text = {"encoder": f"as in {self.path.name}"} if takes_text else None
        return WriteResult(counts, {}, text)

    def _refuse_without_words(self, splits: dict[str, PickleSplit]) -> None:
        for name, split in splits.items():
            if split.sentences is None and split.pieces is None:
                raise InputError(
                    f"{self.path}: {name} has neither raw_text nor text_bert to compute BERT "
                    "features from; leave out --bert to take the file's own features."
                )


def _table(split: PickleSplit) -> list[tuple[Any, ...]]:
    unknown = [""] * len(split.ids)
    starts = unknown if split.starts is None else split.starts.tolist()
    ends = unknown if split.ends is None else split.ends.tolist()
    sentences = unknown if split.sentences is None else split.sentences
    return list(zip(split.ids, split.videos, starts, ends, sentences, strict=True))
