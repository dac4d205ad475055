"""A dataset from a processed pickle, or from a folder of them."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from data.formats.pickle_split import PickleSplit
from data.formats.pickles import PickleContent, keys_of, read_features, read_pickle
from data.formats.word_pickles import holds_words
from data.labels import SCALES
from data.layout import PIECES_FILE
from data.preparing.sources import no_segments_left
from data.preparing.split_writer import SplitWriter, warn_of_doubts
from system.errors import InputError
from system.files import file_facts

_BERT_WIDTH = 768  # of bert-base's features; other widths are not BERT's


@dataclass(frozen=True)
class PickleSource:
    """A processed pickle; with `uses_own_text`, the text features in it are used, if any.

    `dataset` says whose labels it has, a name of `data.labels.SCALES`; None: CMU-MOSEI's or
    CMU-MOSI's, unless they look like SIMS's. `audio` and `visual` are other pickles, from which
    the features of that modality come. Unless it `uses_labels`, its labels are ignored. `advice`
    ends the error where words are needed and it has none.
    """

    path: Path
    uses_own_text: bool
    dataset: str | None = None
    audio: Path | None = None
    visual: Path | None = None
    uses_labels: bool = True
    advice: str = "leave out --bert to take the file's own features"

    @property
    def title(self) -> str:
        """The dataset's title: the name of the file."""
        return self.path.resolve().name if self.path.is_dir() else self.path.stem

    @cached_property
    def is_by_word(self) -> bool:
        """Tell whether features are aligned by word, not by text position ([CLS] first)."""
        return holds_words(self.path)

    @property
    def _scores(self) -> str:
        return self.dataset or "mosei"

    @property
    def _modality_files(self) -> dict[str, Path]:
        files = {"audio": self.audio, "visual": self.visual}
        return {kind: path for kind, path in files.items() if path is not None}

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """The manifest's entry: the files, and what is used of them."""
        files = {"pickle": self.path}
        if self.path.is_dir():
            files = {path.name: path for path in sorted(self.path.glob("*.pkl"))}
        files |= self._modality_files
        return {
            "dataset": self.title,
            "scores": self._scores,
            "alignment": "word" if self.is_by_word else f"as in {self.path.name}",
            "files": {kind: file_facts(path, is_timed=True) for kind, path in files.items()},
            "uses_own_text": self.uses_own_text,
        }

    def estimate(self) -> None:
        """Return None: nothing is known before the whole file is read."""

    def write(self, stage: Path) -> dict[str, Any]:
        """Write the arrays, split by split, as `CsdSource.write` does."""
        content = read_pickle(self.path)
        if self.is_by_word and not content.is_by_word:
            raise InputError(
                f"{self.path}: has splits that are dicts of arrays, expected lists of segments "
                "word by word, as MISA published them; save splits of arrays as one pickle, and "
                "give that with --from FILE.pkl."
            )
        if content.is_by_word and not self.is_by_word:
            raise InputError(
                f"{self.path}: has segments word by word, but does not begin with them; save it "
                "with pickle.dump as MAG-BERT or MISA published it."
            )
        if not self.uses_labels:
            splits = {name: replace(split, labels=None) for name, split in content.splits.items()}
            content = replace(content, splits=splits)
        unlabelled = [
            name for name, split in content.splits.items() if not _have_numbers(split.labels)
        ]
        if self.uses_labels and unlabelled and len(content.splits) > 1:
            warnings.warn(
                f"{self.path}: no 'regression_labels' or 'labels', or no number among them, in "
                f"{', '.join(unlabelled)}: there is nothing to learn from or to score",
                stacklevel=2,
            )
        self._refuse_labels_like_sims(content)
        takes_text = self._decide_text(content)
        left_out: Counter[str] = Counter({"segment has no words": content.without_words})
        splits = self._with_labels(self._join_files(content, left_out))
        writers: dict[str, SplitWriter] = {}
        width = None
        for name in list(splits):
            split = self._drop_faulty_labels(splits.pop(name), left_out)
            if not split.names.ids:
                raise no_segments_left(name, +left_out, f"check the labels and ids of {self.path}")
            writers[name] = _write_split(stage / name, split, takes_text)
            if takes_text and split.text is not None:
                width = split.text.shape[2]
            elif split.sentences is None and split.pieces is not None:
                np.save(stage / name / PIECES_FILE, split.pieces)
        text = {"encoder": f"as in {self.path.name}", "width": width} if takes_text else None
        warn_of_doubts(writers)
        counts = {name: writer.counts for name, writer in writers.items()}
        return {"splits": counts, "left_out": dict(+left_out), "text": text}

    def _refuse_labels_like_sims(self, content: PickleContent) -> None:
        """Raise InputError if the dataset was not given and the labels may be SIMS's."""
        labels = [split.labels for split in content.splits.values() if _have_numbers(split.labels)]
        limit = SCALES["sims"].limit
        if self.dataset is None and labels and not any((np.abs(x) > limit).any() for x in labels):
            raise InputError(
                f"{self.path}: all labels lie in [-{limit}, {limit}], as SIMS's do, where those "
                "of CMU-MOSEI and CMU-MOSI go to 3; name the dataset with --dataset sims, mosei "
                "or mosi."
            )

    def _decide_text(self, content: PickleContent) -> bool:
        """Return whether the file's own text features are used; warns if that may surprise."""
        splits = content.splits.values()
        widths = {split.text.shape[2] for split in splits if split.text is not None}
        has_words = all(split.sentences or split.pieces is not None for split in splits)
        if self.uses_own_text and all(split.text is not None for split in splits):
            if widths != {_BERT_WIDTH}:
                advice = "; --bert computes BERT's from its sentences instead" if has_words else ""
                warnings.warn(
                    f"{self.path}: its text features are {min(widths)} wide: not BERT's, which "
                    f"are {_BERT_WIDTH} wide; they are used as they are{advice}",
                    stacklevel=3,
                )
            return True
        if not has_words:
            raise InputError(
                f"{self.path}: has neither raw_text nor text_bert in each split to compute BERT "
                f"features from; {self.advice}."
            )
        if widths:
            warnings.warn(
                f"{self.path}: its own text features, {min(widths)} wide, are not used",
                stacklevel=3,
            )
        return False

    def _join_files(self, content: PickleContent, left_out: Counter[str]) -> dict[str, PickleSplit]:
        """Replace features by those of `audio` and `visual`; counts segments that these lack."""
        splits, files = content.splits, self._modality_files
        names = [split.names for split in splits.values()]
        own_keys = set(keys_of(self.path, names)) if files else set()
        unmatched: dict[Path, int] = {}  # both may be from one file
        for kind, path in files.items():
            if content.is_by_word and not holds_words(path):
                raise InputError(f"{path}: is not aligned by word, as {self.path} is.")
            values, row_of = read_features(path, kind)
            unmatched[path] = len(row_of.keys() - own_keys)
            for name, split in splits.items():
                rows = np.array([row_of.get(key, -1) for key in split.names.keys or ()])
                has_row = rows >= 0
                left_out[f"segment has no {kind} in {path.name}"] += int(np.count_nonzero(~has_row))
                features: dict[str, Any] = {kind: values[rows[has_row]]}
                splits[name] = replace(split.select(np.flatnonzero(has_row)), **features)
        for path, count in unmatched.items():
            left_out[f"segment is in {path.name} only"] += count
        return splits

    def _with_labels(self, splits: dict[str, PickleSplit]) -> dict[str, PickleSplit]:
        """Give unlabelled segments the label NaN, as wide as the others' labels."""
        widths = [split.labels.shape[2] for split in splits.values() if split.labels is not None]
        shape = (1, max(widths, default=1))
        for name, split in splits.items():
            if split.labels is None:
                labels = np.full((len(split.names.ids), *shape), np.nan, np.float32)
                splits[name] = replace(split, labels=labels)
        return splits

    def _drop_faulty_labels(self, split: PickleSplit, left_out: Counter[str]) -> PickleSplit:
        if not _have_numbers(split.labels):
            return split
        faults = SCALES[self._scores].faults(split.labels)
        left_out.update(faults[faults != ""].tolist())
        return split.select(np.flatnonzero(faults == "")) if (faults != "").any() else split


def _have_numbers(labels: np.ndarray | None) -> TypeGuard[np.ndarray]:
    return labels is not None and not np.isnan(labels).all()


def _write_split(folder: Path, split: PickleSplit, takes_text: bool) -> SplitWriter:
    """Write a split's arrays and its table; returns the writer, with what it counted."""
    by_kind = {"visual": split.visual, "audio": split.audio, "label": split.labels}
    by_kind["text"] = split.text if takes_text else None
    arrays = {kind: array for kind, array in by_kind.items() if array is not None}
    shapes = {kind: array.shape[1:] for kind, array in arrays.items()}
    names, empty = split.names, [""] * len(split.names.ids)
    starts, ends = (empty, empty) if names.times is None else names.times.T.tolist()
    sentences = empty if split.sentences is None else split.sentences
    with SplitWriter(folder, shapes) as writer:
        writer.write(arrays, zip(names.ids, names.videos, starts, ends, sentences, strict=True))
    return writer
