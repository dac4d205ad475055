"""Whether the models of a comparison differ by chance: the bootstrap over videos and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.loading.split import Split
from system.files import write_csv
from utils.reports.bootstrap import RESAMPLES, draw_videos, interval, p_value, resampled_scores
from utils.reports.html import Cell, Section, Table
from utils.studies.predicted import Predicted
from utils.tasks import Measure, Task

DIFFERENCES = "differences.csv"  # the file
_SIGNIFICANT = 0.05
_DRAWN_BY = 0  # the seed of the resamples


@dataclass(frozen=True)
class Difference:
    """How far the mean of a model's score over its seeds lies above that of the first model."""

    model: str
    measure: Measure
    value: float
    ends: list[float]  # of the 95 % interval
    p: float  # two-sided


def differences(task: Task, split: Split, rows: Sequence[Predicted]) -> list[Difference]:
    """Compare each model with the first, score by score.

    A resample draws whole videos, the same for all models, and of each model one run less than
    it has, both with replacement: a mean of so many drawn varies as that of all runs does. Nothing
    comes of a single video, nor of a task whose scores do not follow from sums, whose resamples
    take long.
    """
    counts, video_of = draw_videos(split.videos, RESAMPLES, _DRAWN_BY)
    if counts.shape[1] == 1 or task.sums is None:
        return []
    labels = split.labels[:, task.columns]
    counts = np.vstack([np.ones_like(counts[:1]), counts])  # first what there is, each video once
    generator = np.random.default_rng([_DRAWN_BY, 1])  # not what drew the videos

    def score(row: Predicted) -> dict[str, np.ndarray]:
        """Return the mean of each score over the runs: as it is, then resampled, `(1 + R,)`."""
        runs = len(row.predictions)
        draws, each = max(runs - 1, 1), np.full(runs, 1 / runs)
        drawn = generator.multinomial(draws, each, RESAMPLES) / draws
        shares = np.vstack([each, drawn]).T
        scores = [resampled_scores(labels, one, task, counts, video_of) for one in row.predictions]
        return {key: (shares * [one[key] for one in scores]).sum(axis=0) for key in scores[0]}

    first, found = score(rows[0]), []
    for row in rows[1:]:
        scores = score(row)
        for one in task.measures:
            value, drawn = np.split(scores[one.key] - first[one.key], [1])
            found.append(Difference(row.name, one, value.item(), interval(drawn), p_value(drawn)))
    return found


def write_differences(path: Path, found: Sequence[Difference]) -> None:
    """Write a line a difference."""
    header = ["model", "score", "difference", "low", "high", "p"]
    lines = ([of.model, of.measure.key, of.value, *of.ends, of.p] for of in found)
    write_csv(path, [header, *lines])


def difference_section(first: str, found: Sequence[Difference]) -> Section:
    """Lay out the differences from the model `first`, a line a model, a column a score."""
    cells: dict[str, list[Cell]] = {}
    for of in found:
        text = f"{of.measure.text(of.value)}, p {of.p:.3f}"
        cells.setdefault(of.model, []).append(Cell(text, of.p < _SIGNIFICANT))
    names = list(dict.fromkeys(of.measure.name for of in found))
    text = (
        f"Mean minus that of {first}, and p, two-sided, of {RESAMPLES:,} resamples of the videos "
        f"and of each model's runs; below {_SIGNIFICANT} bold, which by chance alone one of "
        f"{1 / _SIGNIFICANT:.0f} is, and of two or three runs more. {DIFFERENCES} has the 95 % "
        "intervals."
    )
    rows = [[model, *of_model] for model, of_model in cells.items()]
    return Section(f"Differences from {first}", [text, Table(["model", *names], rows)])
