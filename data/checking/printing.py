"""Checking or plotting the alignments of a dataset, and printing what a check found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.checking.check import Report, check_dataset
from data.checking.problem import Remedy
from data.fetching.command import preparation_command
from data.layout import STAGE, alignment_folder
from data.manifest import MANIFEST
from system import console


def inspect(datadir: Path, alignments: Sequence[str], prints: bool, draws: bool) -> None:
    """Check or plot each alignment that was asked for; exits with code 1 if one is wrong."""
    is_wrong = False
    for alignment in alignments:
        folder = alignment_folder(datadir, alignment)
        report = check_dataset(folder)
        is_wrong |= bool(report.problems)
        if prints:
            print_report(report)
        elif report.problems:
            count = len(report.problems)
            console.print_warning(f"{folder} has {count} problems; --check lists them")
        if draws:
            from data.checking.figures import plot_dataset

            plot_dataset(folder / "dataset.png", report.splits, report.scale)
            console.print_line(f"Drawn: {folder / 'dataset.png'}")
    if is_wrong:
        raise SystemExit(1)


def print_report(report: Report) -> None:
    """Print what the arrays hold, then notes and problems."""
    console.print_heading(f"{report.folder}: what the arrays hold")
    console.print_line(console.format_table(_ARRAY_COLUMNS, list(_array_rows(report))))
    console.print_heading("\nSentiment: share of each class, lowest and highest label")
    header = ["split", *report.scale.class_names, "min", "max"]
    console.print_line(console.format_table(header, list(_sentiment_rows(report))))
    console.print_line("")
    for note in report.notes:
        console.print_line(f"note: {note}")
    for problem in report.problems:
        console.print_error(problem.line)
    if not report.problems:
        console.print_line("No problem found.")
    elif not (report.folder / STAGE).exists():  # or the preparation can be continued
        advice = _advice(report)
        if advice is not None:
            console.print_line(advice)


def _advice(report: Report) -> str | None:
    """Return what ends the problems, at the least cost; None where no preparation does."""
    remedies = {problem.remedy for problem in report.problems}
    if Remedy.AS_TOLD in remedies or remedies == {Remedy.NONE}:
        return None
    if not (report.folder / MANIFEST).exists():
        splits = ", ".join(report.splits)
        if not splits:
            return f"To make the dataset, run {preparation_command(report.folder)}."
        return f"To make the dataset anew, move {splits} away and run dataset_prep.py."
    if Remedy.FORCE in remedies:
        return "To make the dataset anew, run the same dataset_prep.py command with --force."
    return "To make these files again, run the same dataset_prep.py command."


_ARRAY_COLUMNS = ("array", "shape", "type", "NaN", "infinite", "zero rows", "min", "max")


def _array_rows(report: Report) -> Iterator[list[Any]]:
    for split, summary in report.splits.items():
        for array in summary.arrays.values():
            values = int(np.prod(array.shape))
            yield [
                f"{split}/{array.file.name}",
                array.shape,
                array.dtype,
                _percent(array.nan, values),
                _percent(array.infinite, values),
                _percent(array.zero_rows, array.rows),
                *_range(array.minimum, array.maximum),
            ]


def _sentiment_rows(report: Report) -> Iterator[list[Any]]:
    for split, summary in report.splits.items():
        shares = [f"{100 * share:.1f} %" for share in summary.class_shares(report.scale).values()]
        lowest = summary.sentiments.min(initial=np.inf)
        highest = summary.sentiments.max(initial=-np.inf)
        yield [split, *shares, *_range(lowest, highest)]


def _percent(count: int, total: int) -> str:
    """Format a share as a percentage; a small one is never shown as 0."""
    if not count:
        return "0"
    percent = 100 * count / total
    return f"{percent:.2f} %" if percent >= 0.01 else "<0.01 %"


def _range(lowest: float, highest: float) -> list[str]:
    return [f"{value + 0:.4g}" if np.isfinite(value) else "-" for value in (lowest, highest)]
