"""Tests whether the models of a comparison differ by chance: a bootstrap over videos and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.loading.split import Split
from system.files import write_csv
from utils.reports.bootstrap import (
    RESAMPLES,
    draw_videos,
    interval,
    p_value,
    resampled_scores,
    without_noise,
)
from utils.reports.html import Cell, Section, Table, short_name
from utils.studies.predicted import Predicted
from utils.tasks import Measure, Task

DIFFERENCES = "differences.csv"
_SIGNIFICANT = 0.05
_SEED = 0  # of the resamples


@dataclass(frozen=True)
class Difference:
    """A model's mean score over its seeds minus that of the first model."""

    model: str
    measure: Measure
    value: float
    ends: list[float]  # of the 95 % interval
    p: float  # two-sided


def find_differences(task: Task, split: Split, rows: Sequence[Predicted]) -> list[Difference]:
    """Compare each model with the first, score by score.

    A resample draws whole videos (segments, where the videos are not known), the same for all
    models, and n - 1 of each model's n runs, both with replacement: the mean of n - 1 drawn runs
    varies as much as the mean of n runs does.
    Returns an empty list for a single video, and for a task whose scores are not computed from
    sums, as its resamples would take long.
    """
    counts, video_of = draw_videos(split.videos, RESAMPLES, _SEED)
    if counts.shape[1] == 1 or task.sums is None:
        return []
    labels = split.labels[:, task.columns]
    counts = np.vstack([np.ones_like(counts[:1]), counts])  # first the data as they are
    generator = np.random.default_rng([_SEED, 1])  # independent of the draw of videos

    def score(row: Predicted) -> dict[str, np.ndarray]:
        """Return the mean of each score over the runs: as it is, then resampled, `(1 + R,)`."""
        runs = len(row.predictions)
        draws, equal_weights = max(runs - 1, 1), np.full(runs, 1 / runs)
        drawn_weights = generator.multinomial(draws, equal_weights, RESAMPLES) / draws
        weights = np.vstack([equal_weights, drawn_weights]).T
        scores = [resampled_scores(labels, run, task, counts, video_of) for run in row.predictions]
        return {key: (weights * [run[key] for run in scores]).sum(axis=0) for key in scores[0]}

    first, differences = score(rows[0]), []
    for row in rows[1:]:
        scores = score(row)
        for measure in task.measures:
            values = without_noise(scores[measure.key] - first[measure.key])
            value, drawn = np.split(values, [1])
            ends, p = interval(drawn), p_value(drawn)
            differences.append(Difference(row.name, measure, value.item(), ends, p))
    return differences


def write_differences(path: Path, differences: Sequence[Difference]) -> None:
    """Write one line per difference."""
    header = ["model", "score", "difference", "low", "high", "p"]
    lines = ([each.model, each.measure.key, each.value, *each.ends, each.p] for each in differences)
    write_csv(path, [header, *lines])


def difference_section(first: str, differences: Sequence[Difference], drawn: str) -> Section:
    """Return a section on the differences from the model `first`: models by scores.

    `drawn` is from `what_is_drawn`.
    """
    cells: dict[str, list[Cell]] = {}
    for each in differences:
        text = f"{each.measure.text(each.value)}, p {each.p:.3f}"
        cells.setdefault(each.model, []).append(Cell(text, each.p < _SIGNIFICANT))
    names = list(dict.fromkeys(each.measure.name for each in differences))
    text = (
        f"Mean minus that of {short_name(first)}, and two-sided p over {RESAMPLES:,} resamples of "
        f"the {drawn} and of each model's runs. p below {_SIGNIFICANT} is bold: by chance alone, "
        f"one in {1 / _SIGNIFICANT:.0f} is, and more with only two or three runs. {DIFFERENCES} "
        "has the 95 % intervals."
    )
    if drawn == "segments":
        text += " p may be too small, as the videos of these segments are not known."
    rows = [[model, *model_cells] for model, model_cells in cells.items()]
    return Section(f"Differences from {first}", [text, Table(["model", *names], rows)])
