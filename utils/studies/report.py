"""A comparison as tables on screen, as files, and as one report."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from data.layout import SPLITS
from data.loading.split import Split
from system.console import format_table, print_line
from system.errors import InputError
from utils.reports.about import data_section, environment_section
from utils.reports.bootstrap import what_is_drawn
from utils.reports.html import Cell, Picture, Section, Table, warning_if_unwritten, write_report
from utils.studies.differences import (
    DIFFERENCES,
    difference_section,
    find_differences,
    write_differences,
)
from utils.studies.predicted import error_sections, read_predicted
from utils.studies.runs import Run
from utils.studies.table import Comparison, Row
from utils.studies.table_files import write_table
from utils.training.run_folder import HISTORY

_DIFFERENT_TESTS = "no mean is bold, as the test splits differ in segments or labels, or are gone"


def tabulate(run_folders: Sequence[Path], folder: Path) -> None:
    """Write the files of `write_study`, and print the table."""
    table = write_study(run_folders, folder)
    header, *rows = table.lines(lambda text, is_best: f"{text} *" if is_best else text)
    print_line(format_table(header, rows))
    also = "differences.csv, " if (folder / DIFFERENCES).is_file() else ""
    print_line(f"\nIn {folder}: comparison.md, .csv, .tex, .json and .png, {also}and report.html")


def write_study(run_folders: Sequence[Path], folder: Path) -> Comparison:
    """Write the table of the runs in these folders and below them, its picture and its report.

    Returns the table. Raises InputError as `write_table` does.
    """
    table = write_table(run_folders, folder)
    with warning_if_unwritten(folder / "report.html"):
        _write_report(folder, table)
    return table


def _write_report(folder: Path, table: Comparison) -> None:
    from utils.studies.plot import Line, plot_comparison  # matplotlib is slow to import

    measure, runs = table.task.chosen_by, [run for row in table.rows for run in row.runs]
    picture = Picture(folder / "comparison.png", f"{measure.name} of each row", is_wide=True)
    lines = [
        Line(
            row.name,
            [result.scores[measure.key] for result in row.results],
            [_validation_curve(run, measure.key) for run in row.runs],
        )
        for row in table.rows
    ]
    reference = None if table.whole is None else lines[table.rows.index(table.whole)]
    plot_comparison(picture.path, lines, measure.name, reference)
    header, *rows = table.lines(Cell)
    run_rows = [
        (line.name, run.config.seed, result.epoch, measure.text(score), run.folder)
        for row, line in zip(table.rows, lines, strict=True)
        for run, result, score in zip(row.runs, row.results, line.values, strict=True)
    ]
    best = "the best mean of each score is bold"
    text = (
        "Mean ± sample deviation over the seeds, on the test split at the epoch that is the best "
        f"by validation {measure.name}; {best if table.is_of_one_test else _DIFFERENT_TESTS}."
    )
    columns = ["model", "seed", "epoch", f"test {measure.name}", "folder"]
    sections = [
        Section("Scores", [text, Table([cell.value for cell in header], rows)]),
        Section(f"{measure.name} by model and by epoch", [picture]),
        Section("Runs", ["Each run has a report of its own.", Table(columns, run_rows)]),
        *_prediction_sections(folder, table),
        *_data_sections(runs, table),
        Section("Configuration", _setting_tables(table.rows)),
        environment_section(*(run.environment for run in runs)),
    ]
    write_report(folder / "report.html", f"Comparison of {len(runs)} runs in {folder}", sections)


def _prediction_sections(folder: Path, table: Comparison) -> list[Section]:
    """Return the sections on differences and errors of the models whose predictions exist.

    Writes differences.csv, unless the first row has no predictions.
    """
    predictions = read_predicted(table)
    if predictions is None:
        _remove_differences(folder)
        return []
    split, rows = predictions
    differences = find_differences(table.task, split, rows)
    errors = error_sections(table.task, split, rows)
    if not differences or rows[0].name != table.rows[0].name:
        _remove_differences(folder)
        return errors
    write_differences(folder / DIFFERENCES, differences)
    return [difference_section(rows[0].name, differences, what_is_drawn(split)), *errors]


def _remove_differences(folder: Path) -> None:
    """Remove an earlier differences.csv, which may be of another comparison, and say so."""
    if (folder / DIFFERENCES).is_file():
        (folder / DIFFERENCES).unlink()
        print_line(f"Removed, as it is of an earlier table: {folder / DIFFERENCES}")


def _validation_curve(run: Run, key: str) -> list[float]:
    """Return a run's validation score by epoch from its metrics.csv; empty when that is missing."""
    path = run.folder / HISTORY
    if not path.is_file():  # a pipe would be waited for
        return []
    with (
        suppress(OSError, ValueError, KeyError, csv.Error),
        path.open(encoding="utf-8", newline="") as file,
    ):
        return [
            float(row[key]) for row in csv.DictReader(file, restval="") if row["split"] == "val"
        ]
    return []


def _data_sections(runs: Sequence[Run], table: Comparison) -> list[Section]:
    sections = []
    for folder in dict.fromkeys(run.config.data_folder for run in runs):
        text = f"{folder} is gone, or no longer what these runs were trained on."
        section = Section("Data", [text])
        with suppress(InputError, OSError):
            splits = {name: Split(folder / name) for name in SPLITS}
            digests = {name: split.digest for name, split in splits.items()}
            if all(run.digests == digests for run in runs if run.config.data_folder == folder):
                section = data_section(folder, splits, table.task)
        sections.append(section)
    return sections


def _setting_tables(rows: Sequence[Row]) -> list[Table]:
    """Return a table of the settings that all rows share, and one of those in which they differ."""
    settings = [row.runs[0].settings for row in rows]
    same, differing = [], []
    for name in dict.fromkeys(name for row_settings in settings for name in row_settings):
        values = [row_settings.get(name, "") for row_settings in settings]
        if len(set(map(repr, values))) == 1:
            same.append([name, values[0]])
        else:
            differing.append([name, *values])
    tables = [Table(["setting", "of all"], same)]
    if differing:
        tables.append(Table(["setting", *(row.name for row in rows)], differing))
    return tables
