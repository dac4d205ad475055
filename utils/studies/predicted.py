"""What the runs of a comparison predict of their test split."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from data.loading.split import Split
from system.console import print_line
from system.errors import InputError
from utils.reports.bootstrap import read_predictions
from utils.reports.html import Picture
from utils.reports.results import result_folder
from utils.studies.runs import Run
from utils.studies.table import Row, Table
from utils.tasks import Task
from utils.training.run_folder import BEST


@dataclass(frozen=True)
class Predicted:
    """What a row's runs predict of the test split."""

    name: str
    predictions: list[np.ndarray]  # (N, outputs) of each run
    mean: np.ndarray  # (N, outputs), over the runs
    error: np.ndarray  # (N, outputs), its absolute values' mean over the runs
    pictures: list[Picture]


def read_predicted(table: Table) -> tuple[Split, list[Predicted]] | None:
    """Return the test split and what each row predicts of it.

    None where runs are of different test splits, or these have changed since. A row is left out,
    and told, when predictions of one of its runs are not where its training left them.
    """
    split = _common_split([run for row in table.rows for run in row.runs])
    if split is None:
        return None
    labels = split.labels[:, table.task.columns]
    found = [_predicted(row, split, labels, table.task) for row in table.rows]
    rows = [row for row in found if row is not None]
    gone = [row.name for row, of in zip(table.rows, found, strict=True) if of is None]
    if gone:
        print_line(
            "Without differences and errors, as predictions of a run are gone from its results "
            f"(or its folder was moved; --checkpoint RUN/{BEST} writes them again): "
            + ", ".join(gone)
        )
    return (split, rows) if rows else None


def _common_split(runs: Sequence[Run]) -> Split | None:
    folders = {run.config.data_folder / "test" for run in runs}
    digests = {run.digests["test"] for run in runs}
    if len(digests) > 1:
        return None
    for folder in folders:
        with suppress(InputError, OSError):  # it may have gone since
            split = Split(folder)
            if split.digest in digests:
                return split
    return None


def _predicted(row: Row, split: Split, labels: np.ndarray, task: Task) -> Predicted | None:
    predictions, pictures = [], []
    try:
        for run in row.runs:
            folder = result_folder(run.config.resultdir, run.folder / BEST, split.digest) / "test"
            predictions.append(read_predictions(folder / "predictions.csv", split, task))
            picture = folder / "confusion_matrix.png"
            if picture.is_file():
                pictures.append(Picture(picture, row.name))
    except (InputError, OSError):  # results may have been removed
        return None
    errors = [np.abs(one - labels) for one in predictions]
    mean, error = np.mean(predictions, axis=0), np.mean(errors, axis=0)
    return Predicted(row.name, predictions, mean, error, pictures[:1])
