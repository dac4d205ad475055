"""A comparison as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from system.console import printable
from system.figures import pyplot, save_figure

_LONGEST_NAME = 60  # characters


class Line(NamedTuple):
    """What is drawn of one row of a comparison."""

    name: str
    values: Sequence[float]  # the test score of each seed
    curves: Sequence[Sequence[float]]  # the validation score of each seed by epoch


def plot_comparison(path: Path, lines: Sequence[Line], measure: str) -> None:
    """Draw each line's scores with mean and deviation, and beside them its curves, of one colour.

    The deviation is the sample's, as in the table.
    """
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(13, 1.8 + 0.36 * max(len(lines), 7)), layout="constrained"
    )
    colors = pyplot.get_cmap("turbo")(np.linspace(0.05, 0.95, len(lines)))
    for place, (line, color) in enumerate(zip(lines, colors, strict=True)):
        spread = np.std(line.values, ddof=1) if len(line.values) > 1 else 0
        left.errorbar(np.mean(line.values), place, xerr=spread, color=color, fmt="D", capsize=4)
        left.plot(line.values, [place] * len(line.values), "o", color=color, ms=4, alpha=0.5)
        for curve in line.curves:
            right.plot(range(1, len(curve) + 1), curve, color=color, marker="o", ms=3, alpha=0.7)
    left.set_yticks(range(len(lines)), [_short(line.name) for line in lines])
    left.set_ylim(len(lines) - 0.5, -0.5)
    left.set(xlabel=f"test {measure}", title="mean, deviation and every seed")
    right.set(xlabel="epoch", ylabel=f"validation {measure}", title="by epoch, in the same colours")
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def _short(name: str) -> str:
    text = printable(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"
