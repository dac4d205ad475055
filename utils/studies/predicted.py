"""The predictions of a comparison's runs on their test split, and their errors side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.loading.split import Split
from system.console import print_line
from system.errors import InputError
from utils.reports.bootstrap import read_predictions
from utils.reports.evaluation_report import (
    WORST,
    Group,
    SegmentTable,
    class_groups,
    length_groups,
    mae_bars,
    values_text,
)
from utils.reports.html import Picture, Section, Table
from utils.reports.results import result_folder
from utils.studies.runs import Run, open_tests
from utils.studies.table import Comparison, Row
from utils.tasks import Task
from utils.training.run_folder import BEST

# Relative: above what devices differ by in float32, below what bfloat16 differs by from it.
_ROUNDING = 1e-5
_MAX_PICTURES = 20  # of about 25 kB each


@dataclass(frozen=True)
class Predicted:
    """The predictions of a row's runs on the test split."""

    name: str
    predictions: list[np.ndarray]  # (N, outputs) of each run
    mean: np.ndarray  # (N, outputs), over the runs
    error: np.ndarray  # (N, outputs), the absolute error, mean over the runs
    pictures: list[Picture]


def read_predicted(table: Comparison) -> tuple[Split, list[Predicted]] | None:
    """Return the test split and each row's predictions on it.

    None when the runs were tested on different segments or labels, which `make_table` says, and
    with a message when the split is gone or has changed since. A row is left out, with a message,
    when predictions of one of its runs are not where its training wrote them, or do not have the
    score that the run recorded.
    """
    if not table.is_of_one_test:
        return None
    split = _find_split([run for row in table.rows for run in row.runs])
    if split is None:
        return None
    labels = split.labels[:, table.task.columns]
    rows, missing = [], []
    for row in table.rows:
        predicted = _read_row(row, split, labels, table.task)
        if predicted is None:
            missing.append(row.name)
        else:
            rows.append(predicted)
    if missing:
        print_line(
            "Differences and errors leave out these models, as a run was moved, or its predictions "
            f"are gone or do not have its score (--checkpoint RUN/{BEST} with its --datadir, "
            f"--resultdir and --precision writes them again): {', '.join(missing)}"
        )
    return (split, rows) if rows else None


def _find_split(runs: Sequence[Run]) -> Split | None:
    """Return a test split of the runs, whose segments and labels are the same; prints if gone."""
    digests = {run.digests["test"] for run in runs}
    for digest, split in open_tests(runs).items():
        if digest in digests:
            return split
    folders = dict.fromkeys(str(run.config.data_folder / "test") for run in runs)
    print_line(
        "Differences and errors are left out, as the test split is gone or has changed since (a "
        f"relative path needs the working directory of the training): {', '.join(folders)}"
    )
    return None


def _results(run: Run) -> Path:
    """Return the folder of a run's results on the test split."""
    about = run.config.resultdir, run.folder / BEST, run.digests["test"]
    folder = result_folder(*about, precision=run.config.precision) / "test"
    # Earlier versions left the precision out of the name.
    return folder if folder.is_dir() else result_folder(*about) / "test"


def _has_its_score(run: Run, labels: np.ndarray, predictions: np.ndarray, task: Task) -> bool:
    """Return whether the predictions give the score that the run recorded, if it did."""
    key = task.chosen_by.key
    recorded = run.result.scores.get(key) if run.result else None
    if recorded is None:
        return True
    score = task.score(labels, predictions)[key]
    return math.isclose(score, recorded, rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def _read_row(row: Row, split: Split, labels: np.ndarray, task: Task) -> Predicted | None:
    predictions, pictures = [], []
    try:
        for run in row.runs:
            folder = _results(run)
            values = read_predictions(folder / "predictions.csv", split, task)
            if not _has_its_score(run, labels, values, task):
                return None
            predictions.append(values)
            picture = folder / "confusion_matrix.png"
            if picture.is_file():
                pictures.append(Picture(picture, row.name))
    except (InputError, OSError):  # the results may be gone
        return None
    errors = [np.abs(values - labels) for values in predictions]
    mean, error = np.mean(predictions, axis=0), np.mean(errors, axis=0)
    return Predicted(row.name, predictions, mean, error, pictures[:1])


def error_sections(task: Task, split: Split, rows: Sequence[Predicted]) -> list[Section]:
    """Return error by class and length, the worst segments and confusion matrices, by model."""
    labels = split.labels[:, task.columns]
    mean_error = np.mean([row.error for row in rows], axis=0).mean(axis=1)
    worst = np.argsort(-mean_error, kind="stable")[:WORST].tolist()
    segments = SegmentTable(split, worst)
    classes, lengths = class_groups(labels, task), length_groups(segments.seconds)
    pictures = [picture for row in rows for picture in row.pictures][:_MAX_PICTURES]
    sections = [
        Section(f"MAE by {title}", [_group_table(title, groups, rows)])
        for title, groups in (("true class", classes), ("length of the segment", lengths))
        if groups
    ]
    if pictures:
        sections.append(Section("Confusion matrices of each model's first run", [*pictures]))
    title = f"The {len(worst)} segments that all models together predict worst"
    arrays = [("true", labels), *((row.name, row.mean) for row in rows)]
    columns = [(name, lambda row, of=array: values_text(task, of[row])) for name, array in arrays]
    return [*sections, Section(title, [segments.table(columns)])]


def _group_table(title: str, groups: Sequence[Group], rows: Sequence[Predicted]) -> Table:
    lines = []
    for name, index in groups:
        errors = [row.error[index] for row in rows]
        if errors[0].size:
            lines.append([name, f"{len(errors[0]):,}", *mae_bars(errors)])
    return Table([title, "segments", *(row.name for row in rows)], lines)
