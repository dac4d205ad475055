"""The folders of results, and the files of an evaluation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from models.checkpoint import Checkpoint
from models.registry import stand_in
from system.console import format_table, print_line
from system.devices import PRECISIONS
from system.errors import InputError
from system.files import LONGEST_NAME, cut_name, read_json, write_csv, write_json
from utils.reports.evaluation import Evaluation
from utils.reports.html import Picture
from utils.run_config import RunConfig
from utils.tasks import Task

_CERTAINTY = ("bootstrap", "against")  # sections of metrics.json: those of `Bootstrap.find`


def evaluation_folder(config: RunConfig, checkpoint: Checkpoint, data_digest: str) -> Path:
    """Return the `result_folder` of what `config`, which names the model, makes of a checkpoint."""
    own_model = stand_in(checkpoint, config.model)
    return result_folder(
        config.resultdir, checkpoint.path, data_digest, config.precision, own_model=own_model
    )


def result_folder(
    resultdir: Path,
    checkpoint: Path,
    data_digest: str,
    precision: str = PRECISIONS[0],
    others: Sequence[Path] = (),
    own_model: str | None = None,
) -> Path:
    """Return `<resultdir>/<name>`, unique for all that decides the results.

    The name has the checkpoint's folder (of seed<N>, also the folder above it), its file name, and
    a digest of its path and content, of the content of the `others` beside it, of the data, of a
    precision other than the default, and of a user's `own_model` that stands in for the
    checkpoint's. The caller adds a subfolder for each split.
    """
    resolved = checkpoint.resolve()
    digest = hashlib.sha256(f"{resolved}\n{data_digest}\n".encode(errors="surrogateescape"))
    if precision != PRECISIONS[0]:
        digest.update(f"{precision}\n".encode())
    if own_model is not None:
        digest.update(f"{own_model}\n".encode(errors="surrogateescape"))
    for path in (checkpoint, *others):
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    folder, suffix = resolved.parent, f"-{digest.hexdigest()[:8]}"
    names = [folder.parent.name] if re.fullmatch(r"seed\d+", folder.name) else []
    name = "-".join([*names, folder.name, resolved.stem])
    return resultdir / f"{cut_name(name, LONGEST_NAME - len(suffix))}{suffix}"


def print_scores(evaluation: Evaluation, task: Task) -> None:
    """Print the scores as a table."""
    header = ["score", f"{len(evaluation.labels)} segments"]
    print_line(format_table(header, task.rows(evaluation.scores)))


def write_evaluation(
    folder: Path, evaluation: Evaluation, task: Task, details: dict[str, Any]
) -> list[Picture]:
    """Write metrics.json, predictions.csv and the pictures of each output into `folder`.

    metrics.json has the scores and the `details`: checkpoint, data, precision, intervals. Intervals
    and differences that an earlier evaluation with the same scores wrote there stay. Returns the
    pictures.
    """
    # matplotlib is slow to import
    from utils.reports.plots import plot_confusion_matrix, plot_predictions

    kept = written_certainty(folder, evaluation)
    metrics = {**evaluation.scores, "n": len(evaluation.labels), **kept, **details}
    write_json(folder / "metrics.json", metrics)
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
            pictures.append(Picture(matrix, f"Confusion matrix of the classes of {name}"))
    return pictures


def written_certainty(folder: Path, evaluation: Evaluation) -> dict[str, Any]:
    """Return the intervals and differences in the metrics.json of a folder.

    An empty dict unless its scores are those of `evaluation`.
    """
    with suppress(OSError, InputError):  # there may be none, or a damaged one
        metrics = read_json(folder / "metrics.json")
        metrics = metrics if isinstance(metrics, dict) else {}
        # By their text, as a score may be NaN, which equals nothing.
        if all(repr(metrics.get(key)) == repr(value) for key, value in evaluation.scores.items()):
            return {key: metrics[key] for key in _CERTAINTY if isinstance(metrics.get(key), dict)}
    return {}


def values_by_segment(columns: Sequence[np.ndarray]) -> list[list[Any]]:
    """Return a list of values per segment, output by output, from several arrays `(N, outputs)`."""
    return np.stack(columns, axis=2).reshape(len(columns[0]), -1).tolist()
