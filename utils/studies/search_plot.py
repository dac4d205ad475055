"""A search as a picture: its history, and which settings mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from system.console import printable
from system.figures import pyplot, save_figure
from utils.studies.queue import run_of
from utils.tasks import Measure


def plot_search(
    path: Path, trials: Sequence[FrozenTrial], importance: Mapping[str, float], measure: Measure
) -> None:
    """Draw each trial's score with the best so far, and beside them the importance of each setting.

    A pruned trial has the score of its last epoch, and never counts as best. Trials without a score
    are not drawn.
    """
    scored = [trial for trial in trials if trial.value is not None]
    complete, pruned = (
        sorted((int(run_of(trial)), trial.value) for trial in scored if trial.state == state)
        for state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for points, style, label in (
        (complete, {"marker": "o"}, "trained to the end"),
        (pruned, {"marker": "x", "color": "grey"}, "pruned"),
    ):
        if points:
            left.scatter(*zip(*points, strict=True), label=label, **style)
    if complete:
        numbers, values = zip(*complete, strict=True)
        best_of = np.minimum if measure.lower_is_better else np.maximum
        left.step(numbers, best_of.accumulate(values), where="post", marker="", label="best so far")
        left.legend()
    left.set(xlabel="trial", ylabel=f"validation {measure.name}", title="by trial")
    left.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    names = sorted(importance, key=lambda name: importance[name])
    right.barh([printable(name) for name in names], [importance[name] for name in names])
    title = "importance of each setting" if names else "importance: too few trials to tell"
    right.set(xlabel="share of the variance", title=title)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path)
