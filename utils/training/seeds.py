"""Scores over several seeds: mean and standard deviation."""

from __future__ import annotations

import statistics
from typing import TypedDict

from system.console import format_table, print_line
from utils.tasks import Scores


class Spread(TypedDict):
    """A score over several seeds."""

    mean: float
    std: float | None  # of the sample; one seed has none


def spread(scores: dict[int, Scores]) -> dict[str, Spread]:
    """Return each score's mean and (sample) standard deviation over the seeds."""
    columns: dict[str, list[float]] = {}
    for seed_scores in scores.values():
        for name, value in seed_scores.items():  # other versions of the program may have others
            columns.setdefault(name, []).append(value)
    return {
        name: {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
        }
        for name, values in columns.items()
    }


def print_spread(scores: dict[int, Scores]) -> None:
    """Print a table with a row for each score: its mean, its deviation, and each seed's value."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    rows = [
        [name, text(statistic["mean"]), text(statistic["std"])]
        + [text(seed_scores[name]) for seed_scores in scores.values()]
        for name, statistic in spread(scores).items()
    ]
    print_line(format_table(["score", "mean", "std", *(f"seed {seed}" for seed in scores)], rows))
