"""Checking whether a prepared dataset is complete and valid, and summarising it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data.checking.open_split import OpenSplit
from data.checking.problem import Problem, Remedy
from data.checking.problems import find_problems
from data.checking.size_problems import file_size_problems
from data.checking.summary import ArraySummary, SplitSummary
from data.fetching.command import no_dataset
from data.labels import SCALES, Scale, scores_of
from data.layout import (
    BATCH_FILES,
    HUGE,
    PIECES_FILE,
    SEGMENTS_FILE,
    SPLITS,
    STAGE,
    TEXT_FILE,
    read_segments,
)
from data.manifest import MANIFEST, changed_files, read_manifest, splits_of
from data.npy import NpyReader
from system.errors import InputError
from system.progress import progress


@dataclass(frozen=True)
class Report:
    """The result of checking a dataset's folder; the dataset is valid if `problems` is empty."""

    folder: Path
    splits: dict[str, SplitSummary]  # those that exist
    problems: list[Problem]
    notes: list[str]
    scale: Scale  # of the labels


def check_dataset(folder: Path) -> Report:
    """Read all of a prepared dataset and compare its parts with each other.

    `folder` holds train, val and test, and `dataset.json` if dataset_prep.py made it. Each
    problem with a file becomes one of the report's `problems`, and the rest is still
    checked. Arrays are read in blocks of a few MB. Raises InputError when there is no such
    folder.
    """
    if not folder.is_dir():
        raise no_dataset(folder, folder)
    problems: list[Problem] = []
    manifest: dict[str, Any] = {}
    with _noting_errors(folder / MANIFEST, problems, Remedy.AS_TOLD):
        manifest = read_manifest(folder) or {}
    text = manifest.get("text") or {}
    expected_splits = (splits_of(manifest) if manifest else ()) or SPLITS
    splits = []
    for path in [folder / name for name in SPLITS]:
        if path.is_dir():
            splits.append(_open_split(path, bool(text), problems))
        elif path.name in expected_splits:
            line = f"No folder {path}; expected {', '.join(SPLITS)} in {folder}."
            problems.append(Problem(path, line))
    total = sum(array.nbytes for split in splits for array in split.arrays.values())
    with progress(total=total, desc="Checking", unit="B", unit_scale=True) as bar:
        summaries = {split.name: _summarise(split, bar) for split in splits}
    scale = SCALES[scores_of(manifest or None)]
    problems += find_problems(folder, manifest, splits, summaries, scale)
    changed = changed_files(manifest, folder)
    problems += file_size_problems(changed, problems)
    problems = _mark_changed(problems, changed)
    notes = [*_notes(folder, bool(text), splits)]
    labels = {name: summary.arrays.get("label") for name, summary in summaries.items()}
    unlabelled = [name for name, array in labels.items() if array and array.is_unlabelled]
    if unlabelled:
        notes.append(f"No labels in {', '.join(unlabelled)}: there is nothing to score.")
    return Report(folder, summaries, problems, notes, scale)


@contextmanager
def _noting_errors(
    file: Path, problems: list[Problem], remedy: Remedy = Remedy.FORCE
) -> Iterator[None]:
    """End the block at an error in reading `file`, and add it to `problems`."""
    try:
        yield
    except InputError as error:
        problems.append(Problem(file, str(error), remedy))
    except OSError as error:
        line = f"{error.filename or file} cannot be read: {error.strerror or error}."
        problems.append(Problem(file, line, Remedy.AS_TOLD))


def _mark_changed(problems: list[Problem], changed: Collection[Path]) -> list[Problem]:
    """Return the problems; those with files, or their folders, that are made again are marked."""
    tables = {problem.file for problem in problems if problem.remedy is Remedy.PREPARE}
    made_again = {*changed, *(path.parent for path in changed), *tables}
    return [
        replace(problem, remedy=Remedy.PREPARE) if problem.file in made_again else problem
        for problem in problems
    ]


def _open_split(folder: Path, has_text: bool, problems: list[Problem]) -> OpenSplit:
    arrays = {}
    for kind, name in BATCH_FILES.items():
        if kind == "text" and not has_text and not (folder / name).exists():
            continue  # prepared without text: complete so far
        with _noting_errors(folder / name, problems):
            arrays[kind] = NpyReader(folder / name)
    rows = pieces = None
    if (path := folder / SEGMENTS_FILE).exists():
        with _noting_errors(path, problems):
            rows = read_segments(folder)
    if (path := folder / PIECES_FILE).exists():
        with _noting_errors(path, problems):
            pieces = NpyReader(path, holds_integers=True)
    return OpenSplit(folder, arrays, pieces, rows)


def _summarise(split: OpenSplit, bar: tqdm) -> SplitSummary:
    arrays = {}
    for kind, array in split.arrays.items():
        arrays[kind] = ArraySummary(split.path(kind), array.shape, array.dtype)
        for first, block in array.blocks():
            arrays[kind].add(block, first)
            if kind == "text":
                arrays[kind].segment_hashes += [hash(row.tobytes()) for row in block]
            bar.update(block.nbytes)
    sentiments = split.sentiments()
    seconds = split.seconds()
    is_length = (seconds >= 0) & (seconds < HUGE)  # table_problems.py reports those below 0
    return SplitSummary(arrays, sentiments[np.isfinite(sentiments)], seconds[is_length])


def _notes(folder: Path, has_text: bool, splits: list[OpenSplit]) -> Iterator[str]:
    """Yield what is no problem, but useful to know."""
    if not (folder / MANIFEST).exists():
        yield f"{folder} has no {MANIFEST}: these arrays may come from another program."
        without_table = [s.name for s in splits if not (s.folder / SEGMENTS_FILE).exists()]
        if without_table:
            yield f"No {SEGMENTS_FILE} in {', '.join(without_table)}: ids and times are unknown."
    without_text = [s.name for s in splits if not s.path("text").exists()]
    if without_text and not has_text:
        yield (
            f"No {TEXT_FILE} in {', '.join(without_text)}: the same dataset_prep.py command "
            "without --no_bert adds the text features."
        )
    if (folder / STAGE).exists():
        yield (
            f"{folder / STAGE} holds an interrupted preparation; the same dataset_prep.py "
            "command continues it."
        )
