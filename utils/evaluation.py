"""Predicting a split and writing what came out."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data.dataset import Loading, Split, batches
from data.errors import InputError
from data.files import replacing, write_json
from data.progress import progress

from .console import say
from .metrics import Scores, score


@dataclass(frozen=True)
class Evaluation:
    """A model's predictions on one split."""

    ids: list[str]
    labels: np.ndarray  # (N,) float32
    predictions: np.ndarray  # (N,) float32
    scores: Scores
    not_finite: int  # input values read as 0


@torch.inference_mode()
def evaluate(model: nn.Module, split: Split, loading: Loading) -> Evaluation:
    """Predict every segment of `split`, in file order, and score the whole.

    `model` is on the loading's device. Raises InputError when it predicts something that is
    not a number.
    """
    model.eval()
    predicted, not_finite = [], 0
    bar = progress(
        batches(split, None, loading),
        desc=f"Evaluating {split.folder.name}",
        unit="batch",
        leave=False,
        disable=not loading.verbose,
    )
    for batch in bar:
        inputs = (x.to(loading.device, non_blocking=True) for x in batch.inputs)
        predicted.append(model(*inputs)[:, 0])
        not_finite += batch.not_finite
    predictions = torch.cat(predicted).float().cpu().numpy()
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
        say(f"  Values that are -inf or NaN in the files, read as 0: {found}")


def write_evaluation(folder: Path, evaluation: Evaluation, about: dict[str, Any]) -> None:
    """Write metrics.json, predictions.csv, confusion_matrix.png and predictions.png.

    `about` stands in metrics.json beside the scores: what was evaluated on what.
    """
    from .plots import plot_confusion_matrix, plot_predictions  # matplotlib is slow to import

    write_json(folder / "metrics.json", {**asdict(evaluation.scores), **about})
    with replacing(folder / "predictions.csv") as temporary:
        _write_predictions(temporary, evaluation)
    pair = evaluation.labels, evaluation.predictions
    plot_confusion_matrix(folder / "confusion_matrix.png", *pair)
    plot_predictions(folder / "predictions.png", *pair)


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "prediction"])
        columns = evaluation.ids, evaluation.labels.tolist(), evaluation.predictions.tolist()
        writer.writerows(zip(*columns, strict=True))
