"""Predicting a split and writing what came out."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.loading.split import LoaderOptions, Split, batches
from system.console import is_terminal, print_line
from system.errors import InputError
from system.files import atomic_write, write_json
from system.progress import progress
from utils.reports.metrics import Scores, score

_MOST_PARTS = 1000


@dataclass(frozen=True)
class Evaluation:
    """A model's predictions on one split."""

    ids: Sequence[str]  # a split's are read when they are asked for
    labels: np.ndarray  # (N,) float32
    predictions: np.ndarray  # (N,) float32
    scores: Scores
    not_finite: int  # input values read as 0


def append_predictions(parts: list[Tensor], part: Tensor) -> None:
    """Append to `parts`, and join them when they are many: small tensors take much memory."""
    parts.append(part)
    if len(parts) >= _MOST_PARTS:
        parts[:] = [torch.cat(parts)]


def gather_rows(mine: list[Tensor], n: int, loading: LoaderOptions) -> np.ndarray:
    """Put together the values of all processes, `(n,)` float32.

    `mine` are this process's, batch by batch; the result is in the order of the batches.
    """
    shares = loading.processes.gather(torch.cat(mine).float().cpu().numpy())
    whole = np.empty(n, dtype=np.float32)
    # Whose share each place of a batch is, batch after batch.
    ranks = np.resize(np.arange(loading.batch_size, dtype=np.int32) % len(shares), n)
    for rank, values in enumerate(shares):
        whole[ranks == rank] = values
    return whole


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, loading: LoaderOptions) -> Evaluation:
    """Predict every segment of `split`, in file order, and score the whole.

    `model` is on the loading's device. Raises InputError when it predicts something that is
    not a number.
    """
    model.eval()
    predicted, not_finite = [torch.empty(0, device=loading.device)], 0
    bar = progress(
        batches(split, None, loading),
        desc=f"Evaluating {split.folder.name}",
        unit="batch",
        leave=False,
        disable=not (loading.verbose and is_terminal()),
    )
    for batch in bar:
        if len(batch.label):
            inputs = (x.to(loading.device, non_blocking=True) for x in batch.inputs)
            append_predictions(predicted, model(*inputs)[:, 0])
            not_finite += batch.not_finite
    predictions = gather_rows(predicted, len(split), loading)
    not_finite = sum(loading.processes.gather(not_finite))
    wrong = np.flatnonzero(~np.isfinite(predictions))
    if len(wrong):
        raise InputError(
            f"The model predicts {predictions[wrong[0]]} for segment {split.ids[wrong[0]]} of "
            f"{split.folder} ({len(wrong)} such predictions): its weights are of no use."
        )
    scores = score(split.labels, predictions)
    return Evaluation(split.ids, split.labels, predictions, scores, not_finite)


def report_not_finite(counts: dict[str, int]) -> None:
    """Say how many values of each split were -inf or NaN, where there were any."""
    found = ", ".join(f"{count:,} in {name}" for name, count in counts.items() if count)
    if found:
        print_line(f"  Values that are -inf or NaN in the files, read as 0: {found}")


def write_evaluation(folder: Path, evaluation: Evaluation, about: dict[str, Any]) -> None:
    """Write metrics.json, predictions.csv, confusion_matrix.png and predictions.png.

    `about` stands in metrics.json beside the scores: what was evaluated on what.
    """
    from utils.reports.plots import (  # matplotlib is slow to import
        plot_confusion_matrix,
        plot_predictions,
    )

    write_json(folder / "metrics.json", {**asdict(evaluation.scores), **about})
    with atomic_write(folder / "predictions.csv") as temporary:
        _write_predictions(temporary, evaluation)
    pair = evaluation.labels, evaluation.predictions
    plot_confusion_matrix(folder / "confusion_matrix.png", *pair)
    plot_predictions(folder / "predictions.png", *pair)


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "prediction"])
        numbers = (map(float, values) for values in (evaluation.labels, evaluation.predictions))
        writer.writerows(zip(evaluation.ids, *numbers, strict=True))
