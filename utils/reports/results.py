"""Where results go, and what is written there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from system.console import format_table, print_line
from system.files import LONGEST_NAME, cut_name, write_csv, write_json
from utils.reports.evaluation import Evaluation
from utils.reports.html import Picture
from utils.tasks import Task


def result_folder(
    resultdir: Path, checkpoint: Path, data_digest: str, beside: Sequence[Path] = ()
) -> Path:
    """Return `<resultdir>/<run>`, which results of no other checkpoint or data share.

    Nor do those of the checkpoint together with others `beside` it.

    Below it each split has a folder of its own. The run's name has the checkpoint's folder and
    name, for people, of seed<N> also the folder's above it, and a digest of its address, its
    content and the data.
    """
    address = checkpoint.resolve()
    digest = hashlib.sha256(f"{address}\n{data_digest}\n".encode(errors="surrogateescape"))
    for path in (checkpoint, *beside):
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    folder, told_apart = address.parent, f"-{digest.hexdigest()[:8]}"
    names = [folder.parent.name] if re.fullmatch(r"seed\d+", folder.name) else []
    shown = "-".join([*names, folder.name, address.stem])
    return resultdir / f"{cut_name(shown, LONGEST_NAME - len(told_apart))}{told_apart}"


def print_scores(evaluation: Evaluation, task: Task) -> None:
    """Print the scores as a table."""
    header = ["score", f"{len(evaluation.labels)} segments"]
    print_line(format_table(header, task.rows(evaluation.scores)))


def write_evaluation(
    folder: Path, evaluation: Evaluation, task: Task, details: dict[str, Any]
) -> list[Picture]:
    """Write metrics.json, predictions.csv and the pictures of each output into `folder`.

    `details` stand in metrics.json beside the scores: what was evaluated on what. Returns the
    pictures.
    """
    # matplotlib is slow to import
    from utils.reports.plots import plot_confusion_matrix, plot_predictions

    counts = {"n": len(evaluation.labels)}
    write_json(folder / "metrics.json", {**evaluation.scores, **counts, **details})
    header = ["id", *task.column_names("label", "prediction")]
    rows = values_by_segment([evaluation.labels, evaluation.predictions])
    lines = ([id_, *values] for id_, values in zip(evaluation.ids, rows, strict=True))
    write_csv(folder / "predictions.csv", chain([header], lines))
    pictures = []
    for column, name in enumerate(task.outputs):
        suffix = f"_{name}" if len(task.outputs) > 1 else ""
        pair = evaluation.labels[:, column], evaluation.predictions[:, column]
        points = folder / f"predictions{suffix}.png"
        plot_predictions(points, *pair, name)
        pictures.append(Picture(points, f"Predicted {name} against the true one"))
        if task.scale is not None:
            matrix = folder / f"confusion_matrix{suffix}.png"
            plot_confusion_matrix(matrix, *pair, task.scale)
            pictures.append(Picture(matrix, f"How often each class of {name} was taken for which"))
    return pictures


def values_by_segment(columns: Sequence[np.ndarray]) -> list[list[Any]]:
    """Return a list a segment, of arrays `(N, outputs)` each: the values of one output together."""
    return np.stack(columns, axis=2).reshape(len(columns[0]), -1).tolist()
