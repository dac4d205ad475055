"""Scores over several seeds: mean and standard deviation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from system.console import fixed, format_table, print_line, print_warning
from system.files import read_dict, write_json
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
        name: {"mean": statistics.fmean(values), "std": _deviation(values)}
        for name, values in columns.items()
    }


def _deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation; None of one value, NaN where one is infinite or NaN."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def print_spread(scores: dict[int, Scores]) -> None:
    """Print a table with a row for each score: its mean, its deviation, and each seed's value."""

    def text(value: float | None) -> str:
        return "-" if value is None else fixed(value, 4)

    rows = [
        [name, text(statistic["mean"]), text(statistic["std"])]
        + [text(seed_scores[name]) for seed_scores in scores.values()]
        for name, statistic in spread(scores).items()
    ]
    print_line(format_table(["score", "mean", "std", *(f"seed {seed}" for seed in scores)], rows))


def write_scores(folder: Path, scores: dict[int, Scores]) -> None:
    """Write the seeds' spread and scores to `seeds.json`; warns of seeds that it had before."""
    path = folder / "seeds.json"
    earlier = (read_dict(path) or {}).get("seeds")
    earlier_seeds = earlier if isinstance(earlier, dict) else {}
    lost = [seed for seed in earlier_seeds if seed not in map(str, scores)]
    write_json(path, {"spread": spread(scores), "seeds": scores})
    print_line(f"\nIn {path}")
    if lost:
        print_warning(
            f"{path} no longer has the seeds {', '.join(lost)}, trained earlier; for the scores of "
            f"all, give --seeds {' '.join([*lost, *map(str, scores)])} --resume auto"
        )
