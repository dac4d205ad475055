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
from utils.reports.html import Cell, Picture, Section, Table, warning_if_unwritten, write_report
from utils.studies.differences import (
    DIFFERENCES,
    difference_section,
    differences,
    write_differences,
)
from utils.studies.errors import error_sections
from utils.studies.predicted import read_predicted
from utils.studies.runs import Run
from utils.studies.table import Row, write_table
from utils.studies.table import Table as Comparison
from utils.training.run_folder import HISTORY


def tabulate(places: Sequence[Path], folder: Path) -> None:
    """Write what `write_study` does, and print the table."""
    table = write_study(places, folder)
    header, *rows = table.lines(lambda text, is_best: f"{text} *" if is_best else text)
    print_line(format_table(header, rows))
    also = "differences.csv, " if (folder / DIFFERENCES).is_file() else ""
    print_line(f"\nIn {folder}: comparison.md, .csv, .tex, .json and .png, {also}and report.html")


def write_study(places: Sequence[Path], folder: Path) -> Comparison:
    """Write the table of the runs in these folders and below them, its picture and its report.

    Returns the table. Raises InputError as `write_table` does.
    """
    table = write_table(places, folder)
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
            [_validation(run, measure.key) for run in row.runs],
        )
        for row in table.rows
    ]
    reference = None if table.whole is None else lines[table.rows.index(table.whole)]
    plot_comparison(picture.path, lines, measure.name, reference)
    header, *rows = table.lines(Cell)
    about_runs = [
        (row.name, run.config.seed, of.epoch, measure.text(of.scores[measure.key]), run.folder)
        for row in table.rows
        for run, of in zip(row.runs, row.results, strict=True)
    ]
    text = (
        "Mean ± sample deviation over the seeds, on the test split at the epoch that is the best "
        f"by validation {measure.name}; the best mean of each score is bold."
    )
    columns = ["model", "seed", "epoch", f"test {measure.name}", "folder"]
    sections = [
        Section("Scores", [text, Table([cell.value for cell in header], rows)]),
        Section(f"{measure.name} by model and by epoch", [picture]),
        Section("Runs", ["Each run has a report of its own.", Table(columns, about_runs)]),
        *_about_predictions(folder, table),
        *_data(runs, table),
        Section("Configuration", _configuration(table.rows)),
        environment_section(*(run.environment for run in runs)),
    ]
    write_report(folder / "report.html", f"Comparison of {len(runs)} runs in {folder}", sections)


def _about_predictions(folder: Path, table: Comparison) -> list[Section]:
    """Return how sure differences are and where models are wrong, as far as predictions are there.

    Writes differences.csv, unless it is the first row whose predictions are not there.
    """
    (folder / DIFFERENCES).unlink(missing_ok=True)  # it may be of another comparison
    found = read_predicted(table)
    if found is None:
        return []
    sections = []
    apart = differences(table.task, *found)
    if apart and found[1][0].name == table.rows[0].name:
        write_differences(folder / DIFFERENCES, apart)
        sections.append(difference_section(found[1][0].name, apart))
    return [*sections, *error_sections(table.task, *found)]


def _validation(run: Run, key: str) -> list[float]:
    """Return a validation score by epoch, as the run's folder has it; nothing where it has not."""
    with (
        suppress(OSError, ValueError, KeyError, csv.Error),
        (run.folder / HISTORY).open(encoding="utf-8", newline="") as file,
    ):
        return [
            float(row[key]) for row in csv.DictReader(file, restval="") if row["split"] == "val"
        ]
    return []


def _data(runs: Sequence[Run], table: Comparison) -> list[Section]:
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


def _configuration(rows: Sequence[Row]) -> list[Table]:
    """Lay out the settings that all rows share, and those in which they differ."""
    settings = [row.runs[0].settings for row in rows]
    names = list(dict.fromkeys(name for of_row in settings for name in of_row))
    values = {name: [of_row.get(name, "") for of_row in settings] for name in names}
    same = {name for name in names if len(set(map(repr, values[name]))) == 1}
    differing = [[name, *values[name]] for name in names if name not in same]
    tables = [
        Table(["setting", "of all"], [[name, values[name][0]] for name in names if name in same])
    ]
    if differing:
        tables.append(Table(["setting", *(row.name for row in rows)], differing))
    return tables
