"""Plots of evaluations, trainings and robustness, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from data.labels import Scale
from system.console import printable
from system.figures import pyplot, save_figure
from utils.reports.perturbation import LEVELS, MODALITIES, UNDISTURBED, Perturbation, perturbations

_MAX_POINTS = 2000  # more would hide each other
_TITLES = {
    "missing_random": ("missing, at random", "% of the frames"),
    "missing_block": ("missing, in a block", "% of the frames"),
    "noise": ("noise", "signal to noise (dB)"),
    "shift": ("shifted against text", "seconds later"),
}


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


def plot_robustness(
    path: Path, curves: Mapping[str, Mapping[Perturbation, float]], measure: str
) -> None:
    """Draw the values of `measure` by level, a line for each name in `curves`.

    Dotted lines are the values on undisturbed data.
    """
    figure, panels = pyplot.subplots(
        len(MODALITIES),
        len(LEVELS),
        figsize=(11, 7),
        layout="constrained",
        sharey=True,
        sharex="col",
    )
    measured = perturbations()
    for row, modality in enumerate(MODALITIES):
        for column, (kind, (title, unit)) in enumerate(_TITLES.items()):
            axes = panels[row, column]
            panel = [each for each in measured if (each.modality, each.kind) == (modality, kind)]
            if not panel:
                axes.axis("off")
                continue
            for number, values in enumerate(curves.values()):
                levels = [each.level for each in panel]
                axes.plot(levels, [values[each] for each in panel], markersize=4)
                axes.axhline(values[UNDISTURBED], color=f"C{number}", linestyle=":", linewidth=1)
            axes.set_title(f"{modality} {title}", fontsize=10)
            axes.set_xlabel(unit)
            axes.tick_params(labelbottom=True)
            axes.grid(alpha=0.3)
        panels[row, 0].set_ylabel(measure)
    panels[0, list(LEVELS).index("noise")].invert_xaxis()  # more noise to the right
    handles = panels[0, 0].get_lines()[::2]
    figure.legend(handles, map(printable, curves), loc="outside upper center", frameon=False)
    save_figure(figure, path)
