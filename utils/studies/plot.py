"""A comparison as a picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from system.console import printable
from system.figures import pyplot, save_figure

_LONGEST_NAME, _LONGEST_TITLE = 34, 28  # characters per line
_MAX_NAME_LINES = 3  # beside the scores, where room is limited
_MAX_COLUMNS = 4  # of panels, each with a title


class Line(NamedTuple):
    """The scores of one row of a comparison, to be drawn."""

    name: str
    values: Sequence[float]  # the test score of each seed
    curves: Sequence[Sequence[float]]  # the validation scores of each seed, by epoch


def plot_comparison(
    path: Path, lines: Sequence[Line], measure: str, reference: Line | None = None
) -> None:
    """Draw each line's scores with mean and deviation, and beside them a panel of its curves.

    Behind a panel's curves are those of `reference`, or without one, those of all other lines. The
    deviation is the sample's, as in the table.
    """
    figure = pyplot.figure(figsize=(12, 1.8 + 0.36 * max(len(lines), 7)), layout="constrained")
    columns = min(math.ceil(math.sqrt(len(lines))), _MAX_COLUMNS)
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    scores = left.subplots()
    panels = right.subplots(
        math.ceil(len(lines) / columns), columns, sharex=True, sharey=True, squeeze=False
    )
    colors = pyplot.get_cmap("viridis")(np.linspace(0, 0.85, len(lines)))
    for row, (line, color) in enumerate(zip(lines, colors, strict=True)):
        spread = np.std(line.values, ddof=1) if len(line.values) > 1 else 0
        scores.errorbar(np.mean(line.values), row, xerr=spread, color=color, fmt="D", capsize=4)
        scores.plot(line.values, [row] * len(line.values), "o", color=color, ms=4, alpha=0.5)
        background = lines if reference is None else [reference]
        axes = panels.flat[row]
        _draw_curves(axes, line, color, [other for other in background if other is not line])
        name = line.name if reference is None else line.name.removeprefix(f"{reference.name} ")
        axes.set_title(_short(name, _LONGEST_TITLE), fontsize=8)
        axes.tick_params(labelsize=7, labelbottom=row >= len(lines) - columns)
    for axes in panels.flat[len(lines) :]:
        axes.axis("off")
    if reference is not None:
        scores.axvline(np.mean(reference.values), color="black", linestyle=":", linewidth=1)
    scores.set_yticks(range(len(lines)), [_wrapped(line.name) for line in lines])
    scores.tick_params(axis="y", labelsize=8)
    scores.locator_params(axis="x", nbins=6)
    scores.set_ylim(len(lines) - 0.5, -0.5)
    scores.set(xlabel=f"test {measure}", title="mean, deviation and every seed")
    scores.grid(alpha=0.3)
    panels[0, 0].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    grey = "all others" if reference is None else _short(reference.name, _LONGEST_TITLE)
    right.suptitle(f"validation {measure} by epoch, every seed; grey: {grey}")
    save_figure(figure, path)


def _draw_curves(axes: Axes, line: Line, color: np.ndarray, background: Sequence[Line]) -> None:
    for other in background:
        for curve in other.curves:
            axes.plot(range(1, len(curve) + 1), curve, color="grey", lw=1, alpha=0.4, marker="")
    for curve in line.curves:
        axes.plot(range(1, len(curve) + 1), curve, color=color, marker="o", ms=2.5, lw=1.2)
    axes.grid(alpha=0.3)


def _wrapped(name: str) -> str:
    """Return a name broken into as many lines as a row has room for."""
    text = printable(name)
    lines = textwrap.wrap(text, _LONGEST_NAME, max_lines=_MAX_NAME_LINES, placeholder="…")
    return "\n".join(lines)


def _short(name: str, max_length: int) -> str:
    text = printable(name)
    return text if len(text) <= max_length else f"{text[:max_length]}…"
