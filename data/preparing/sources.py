"""Where a dataset comes from: .csd files, or a processed pickle of the community's.

Each origin says what decides the arrays' content, and writes the arrays of all splits.
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
from data.formats.folds import read_folds
from data.formats.pickles import CommunitySplit, read_community_file
from data.layout import PIECES_FILE, SPLITS, TEXT_FILE
from data.preparing.segments import Lengths, Sequences
from data.preparing.split_writer import SplitWriter
from system.errors import InputError
from system.files import file_facts


@dataclass(frozen=True)
class WriteResult:
    """What an origin wrote."""

    counts: dict[str, dict[str, int]]  # by split: segments, videos
    left_out: dict[str, int]  # rows of the labels file, by reason
    text: dict[str, Any] | None = None  # the text features' description, when it brought them


class DataSource(Protocol):
    """What both origins can do."""

    takes_text: bool  # text features that the origin has are taken, not computed

    @property
    def is_by_word(self) -> bool:
        """Tell whether a row of the arrays is a word, and the text wants one vector a word."""

    @property
    def made_from(self) -> dict[str, Any]:
        """Everything that decides what the arrays hold, as plain values."""

    def write(self, stage: Path) -> WriteResult:
        """Write all splits below `stage`; raises InputError for anything wrong."""


@dataclass(frozen=True)
class CsdFiles:
    """Computational sequences, to be aligned."""

    paths: dict[str, Path]  # of the four files, by what they hold
    dataset: Dataset
    folds: Path
    alignment: str
    lengths: Lengths
    takes_text = False  # there is none

    @property
    def is_by_word(self) -> bool:
        """Only `word` aligns the text as well."""
        return self.alignment == "word"

    @cached_property  # the files are sampled once
    def made_from(self) -> dict[str, Any]:
        """The files, how they are aligned, and the folds."""
        return {
            "dataset": self.dataset.title,
            "alignment": self.alignment,
            "lengths": asdict(self.lengths),
            "files": {kind: file_facts(path) for kind, path in self.paths.items()},
            "folds": file_facts(self.folds),
        }

    def write(self, stage: Path) -> WriteResult:
        """Align video by video, writing each segment as it comes."""
        split_of = read_folds(self.folds)
        left_out: Counter[str] = Counter()
        shapes = {
            "visual": (self.lengths.visual, self.dataset.visual.width),
            "audio": (self.lengths.audio, self.dataset.audio.width),
            "label": (1, self.dataset.labels.width),
        }
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
class CommunityFile:
    """A processed pickle; with `takes_text`, its own BERT features are taken where it has them."""

    path: Path
    takes_text: bool
    is_by_word = False  # these files align words with positions of the text, [CLS] first

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """The file, and what is taken from it."""
        return {
            "dataset": self.path.stem,
            "alignment": f"as in {self.path.name}",
            "files": {"pickle": file_facts(self.path)},
            "takes_text": self.takes_text,
        }

    def write(self, stage: Path) -> WriteResult:
        """Copy the arrays, split by split."""
        splits = read_community_file(self.path)
        takes_text = self.takes_text and all(split.text is not None for split in splits.values())
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

    def _refuse_without_words(self, splits: dict[str, CommunitySplit]) -> None:
        for name, split in splits.items():
            if split.sentences is None and split.pieces is None:
                raise InputError(
                    f"{self.path}: {name} has neither raw_text nor text_bert to compute BERT "
                    "features from; leave out --bert to take the file's own features."
                )


def _table(split: CommunitySplit) -> list[tuple[Any, ...]]:
    unknown = [""] * len(split.ids)
    starts = unknown if split.starts is None else split.starts.tolist()
    ends = unknown if split.ends is None else split.ends.tolist()
    sentences = unknown if split.sentences is None else split.sentences
    return list(zip(split.ids, split.videos, starts, ends, sentences, strict=True))
