"""Plots of evaluations and trainings, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from data.labels import Scale
from system.figures import pyplot, save_figure

_MAX_POINTS = 2000  # more would hide each other


def plot_confusion_matrix(
    path: Path, labels: np.ndarray, predictions: np.ndarray, scale: Scale
) -> None:
    """Draw the confusion matrix of the classes of labels and predictions `(n,)`."""
    names = scale.class_names
    classes = scale.classes(labels), scale.classes(predictions)
    counts = confusion_matrix(*classes, labels=range(len(names)))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = pyplot.subplots(figsize=(6, 5.2), layout="constrained")
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, count, ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(
        xlabel="predicted class", ylabel="true class", title=f"Acc-{len(names)} confusion matrix"
    )
    figure.colorbar(image, label="share of the true class")
    save_figure(figure, path)


def plot_predictions(path: Path, labels: np.ndarray, predictions: np.ndarray, name: str) -> None:
    """Draw the predictions `(n,)` of `name` against the labels; many points as a density."""
    figure, axes = pyplot.subplots(figsize=(6, 5.2), layout="constrained")
    if len(labels) <= _MAX_POINTS:
        axes.scatter(labels, predictions, s=9, alpha=0.4, linewidths=0)
    else:
        cells = axes.hexbin(labels, predictions, gridsize=45, bins="log", mincnt=1)
        figure.colorbar(cells, label="segments", format="%g")
    axes.axline((0, 0), slope=1, color="grey", linestyle="--", label="perfect")
    axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}", title=f"{len(labels)} segments")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def plot_curves(
    path: Path,
    losses: Sequence[float],
    values: Mapping[str, Sequence[float]],
    best_epoch: int,
    measure: str,
) -> None:
    """Draw the training loss and each split's `measure` by epoch, with the chosen epoch marked."""
    epochs = range(1, len(losses) + 1)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(epochs, losses, marker="o", markersize=3)
    left.set(xlabel="epoch", ylabel="loss", title="training loss")
    for split, by_epoch in values.items():
        right.plot(epochs, by_epoch, markersize=4, label=split)
    right.axvline(best_epoch, color="grey", linestyle="--", label=f"best val {measure}")
    right.set(xlabel="epoch", ylabel=measure, title=f"{measure} by split")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    save_figure(figure, path)
