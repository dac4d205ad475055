"""Scores over several seeds: mean and standard deviation."""

from __future__ import annotations

import statistics

from system.console import format_table, print_line
from utils.tasks import Scores


def spread(scores: dict[int, Scores]) -> dict[str, dict[str, float]]:
    """Return each score's mean and (sample) standard deviation over the seeds."""
    columns: dict[str, list[float]] = {}
    for of_seed in scores.values():
        for name, value in of_seed.items():  # another version of the program may have had others
            columns.setdefault(name, []).append(value)
    return {
        name: {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        }
        for name, values in columns.items()
    }


def print_spread(scores: dict[int, Scores]) -> None:
    """Print one row a score: mean, deviation, and each seed's."""
    rows = [
        [name, f"{of['mean']:.4f}", f"{of['std']:.4f}"]
        + [f"{of_seed[name]:.4f}" for of_seed in scores.values()]
        for name, of in spread(scores).items()
    ]
    print_line(format_table(["score", "mean", "std", *(f"seed {seed}" for seed in scores)], rows))
