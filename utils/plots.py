"""What people would rather see than read, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws to files; needs no screen

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from data.files import replacing

from .metrics import sentiment_class

_LIMIT = 3  # labels lie in [-3, 3]


def plot_confusion_matrix(path: Path, labels: np.ndarray, predictions: np.ndarray) -> None:
    """Draw how often each of the 7 classes `(n,)` was taken for which."""
    classes = np.arange(-_LIMIT, _LIMIT + 1)
    counts = confusion_matrix(
        sentiment_class(labels, _LIMIT), sentiment_class(predictions, _LIMIT), labels=classes
    )
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(6, 5.2), layout="constrained")
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, count, ha="center", va="center", color=color, fontsize=9)
    names = [f"{name:+d}" if name else "0" for name in classes]
    axes.set_xticks(range(len(classes)), names)
    axes.set_yticks(range(len(classes)), names)
    axes.set(xlabel="predicted class", ylabel="true class", title="Acc-7 confusion matrix")
    figure.colorbar(image, label="share of the true class")
    _save(figure, path)


def plot_predictions(path: Path, labels: np.ndarray, predictions: np.ndarray) -> None:
    """Draw each prediction `(n,)` against its label."""
    figure, axes = plt.subplots(figsize=(6, 5.2), layout="constrained")
    axes.scatter(labels, predictions, s=9, alpha=0.4, linewidths=0)
    axes.axline((0, 0), slope=1, color="grey", linestyle="--", label="perfect")
    axes.set(xlabel="true sentiment", ylabel="predicted sentiment", title=f"{len(labels)} segments")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def plot_curves(
    path: Path, losses: Sequence[float], maes: dict[str, Sequence[float]], best_epoch: int
) -> None:
    """Draw the training loss and each split's MAE by epoch, the chosen epoch marked."""
    epochs = range(1, len(losses) + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(epochs, losses, marker="o", markersize=3)
    left.set(xlabel="epoch", ylabel="MSE", title="training loss")
    for split, values in maes.items():
        right.plot(epochs, values, marker="o", markersize=3, label=split)
    right.axvline(best_epoch, color="grey", linestyle="--", label="best val MAE")
    right.set(xlabel="epoch", ylabel="MAE", title="MAE by split")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
