"""Checking or plotting the alignments of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.checking.check import check_dataset
from data.checking.printing import print_report
from data.layout import alignment_folder
from system.console import print_line, print_warning


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
            print_warning(f"{folder} has {count} problems; --check lists them")
        if draws:
            from data.checking.figures import plot_dataset

            plot_dataset(folder / "dataset.png", report.splits, report.scale)
            print_line(f"Drawn: {folder / 'dataset.png'}")
    if is_wrong:
        raise SystemExit(1)
