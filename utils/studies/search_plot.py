"""A search as a picture: its history, and which settings mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from system.console import printable
from system.figures import pyplot, save_figure


class Point(NamedTuple):
    """What is drawn of one trial."""

    number: int
    value: float  # the validation score
    is_pruned: bool


def plot_search(
    path: Path,
    points: Sequence[Point],
    importance: Mapping[str, float],
    measure: str,
    lower_is_better: bool,
) -> None:
    """Draw each trial's score with the best so far, and beside them how much a setting mattered.

    A pruned trial has the score of its last epoch, and is never the best.
    """
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    whole = sorted(point for point in points if not point.is_pruned)
    for drawn, look, label in (
        (whole, {"marker": "o"}, "trained to the end"),
        ([one for one in points if one.is_pruned], {"marker": "x", "color": "grey"}, "pruned"),
    ):
        if drawn:
            numbers, values = [one.number for one in drawn], [one.value for one in drawn]
            left.scatter(numbers, values, label=label, **look)
    if whole:
        best_of = np.minimum if lower_is_better else np.maximum
        best = best_of.accumulate([point.value for point in whole])
        numbers = [point.number for point in whole]
        left.step(numbers, best, where="post", marker="", label="best so far")
        left.legend()
    left.set(xlabel="trial", ylabel=f"validation {measure}", title="by trial")
    left.xaxis.get_major_locator().set_params(integer=True)
    names = sorted(importance, key=lambda name: importance[name])
    right.barh([printable(name) for name in names], [importance[name] for name in names])
    title = "importance of each setting" if names else "importance: too few trials to tell"
    right.set(xlabel="share of the variance", title=title)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path)
