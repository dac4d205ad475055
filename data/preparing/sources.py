"""A dataset from .csd files; `data.preparing.pickle_source` has the same interface for pickles."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.fetching.server import Dataset
from data.formats.folds import read_folds
from data.labels import SCALES
from data.layout import ARRAY_FILES, SPLITS
from data.preparing.segments import Lengths, Sequences, VideoSegments, cut_videos, open_sequences
from data.preparing.split_writer import SplitWriter, warn_of_doubts, warn_of_unknown
from system.errors import InputError
from system.files import file_facts


@dataclass(frozen=True)
class CsdSource:
    """Computational sequences, to be aligned."""

    paths: dict[str, Path]  # of words, visual, audio and labels
    dataset: Dataset
    folds: Path
    alignment: str
    lengths: Lengths
    uses_own_text = False  # .csd files have no text features

    @property
    def title(self) -> str:
        """The dataset's name."""
        return self.dataset.title

    @property
    def is_by_word(self) -> bool:
        """Tell whether text is aligned by word, which only the alignment `word` does."""
        return self.alignment == "word"

    def _shapes(self, sequences: Sequences) -> dict[str, tuple[int, int]]:
        shapes = {kind: (n, sequences[kind].width) for kind, n in self.lengths.items()}
        return {**shapes, "label": (1, sequences["labels"].width)}

    @cached_property  # the files are sampled once
    def made_from(self) -> dict[str, Any]:
        """The manifest's entry: the files, how they are aligned, and the folds."""
        return {
            "dataset": self.title,
            "scores": self.dataset.name,
            "alignment": self.alignment,
            "lengths": self.lengths,
            "files": {kind: file_facts(path, is_timed=True) for kind, path in self.paths.items()},
            "folds": file_facts(self.folds),
        }

    def estimate(self) -> tuple[dict[str, int], int]:
        """Return the maximum number of segments of each split, and the bytes of a segment."""
        split_of, segments = read_folds(self.folds), dict.fromkeys(SPLITS, 0)
        with open_sequences(self.paths) as sequences:
            shapes, labels = self._shapes(sequences), sequences["labels"]
            for video in labels.videos & split_of.keys():
                segments[split_of[video]] += len(labels.read_unsorted(video)[0])
        return segments, 4 * sum(rows * width for rows, width in shapes.values())

    def write(self, stage: Path) -> dict[str, Any]:
        """Align video by video, and write each segment at once; returns entries of the manifest.

        These are the segments and videos of each split, how many segments or rows of the labels
        file were left out by reason, and the source's text features, here None.
        """
        split_of, scale = read_folds(self.folds), SCALES[self.dataset.name]
        left_out: Counter[str] = Counter()
        with ExitStack() as stack:
            sequences = stack.enter_context(open_sequences(self.paths))
            if self.folds != self.dataset.folds:
                unknown = split_of.keys() - sequences["labels"].videos
                warn_of_unknown(self.folds, unknown, len(split_of))
            shapes = self._shapes(sequences)
            writers = {
                split: stack.enter_context(SplitWriter(stage / split, shapes)) for split in SPLITS
            }
            videos = cut_videos(sequences, split_of, self.alignment, self.lengths, left_out)
            for segments in videos:
                faults = scale.faults(segments.label)
                left_out.update(faults[faults != ""].tolist())
                _write(writers[segments.split], segments, np.flatnonzero(faults == ""))
        counts = {split: writer.counts for split, writer in writers.items()}
        for split, count in counts.items():
            if not count["segments"]:
                advice = "check that the .csd files belong together, and to the folds"
                raise no_segments_left(split, +left_out, advice)
        warn_of_doubts(writers)
        return {"splits": counts, "left_out": dict(+left_out), "text": None}


def _write(writer: SplitWriter, segments: VideoSegments, chosen: np.ndarray) -> None:
    times, ids, words = segments.intervals.tolist(), segments.ids, segments.words
    rows = ((ids[k], segments.video, *times[k], " ".join(words[k])) for k in chosen.tolist())
    if len(chosen):
        writer.write({kind: getattr(segments, kind)[chosen] for kind in ARRAY_FILES}, rows)


def no_segments_left(split: str, left_out: Counter[str], advice: str) -> InputError:
    """Return the error that a split has no segment left; the reasons are those of all splits."""
    reasons = ", ".join(f"{count} because the {reason}" for reason, count in left_out.items())
    return InputError(f"No segment is left in {split} ({reasons or 'there was none'}); {advice}.")
