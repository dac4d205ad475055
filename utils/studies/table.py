"""One table of many runs: mean and deviation over seeds, and what each model costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from system.console import print_line
from system.errors import InputError
from system.files import write_bytes, write_csv, write_json
from utils.studies.runs import Run, find_runs
from utils.tasks import Measure, Task
from utils.training.provenance import RunResult
from utils.training.seeds import spread

_Mark = Callable[[str, bool], Any]  # makes a format's cell from a text and whether it is best
_TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"},
}


@dataclass(frozen=True)
class Row:
    """The runs that differ in their seed alone."""

    name: str
    runs: list[Run]
    scores: dict[str, dict[str, float]]  # mean and std, by measure key

    @property
    def results(self) -> list[RunResult]:
        """The result of each run that has ended."""
        return [run.result for run in self.runs if run.result is not None]

    @property
    def costs(self) -> dict[str, float | None]:
        """Parameters, FLOPs per segment, and mean training speed in segments per second."""
        results = self.results
        speeds = [result.samples_per_second for result in results]
        return {
            "parameters": results[0].parameters,
            "flops": results[0].flops,
            "samples_per_second": sum(speeds) / len(speeds),
        }


@dataclass(frozen=True)
class Table:
    """Rows that can be compared."""

    task: Task
    rows: list[Row]

    @property
    def whole(self) -> Row | None:
        """The row of the unchanged model, when all other rows are variants of it."""
        names = {row.runs[0].config.model_name for row in self.rows}
        whole = [row for row in self.rows if {row.name} == names]
        return whole[0] if len(whole) == 1 < len(self.rows) else None

    def is_best(self, row: Row, measure: Measure) -> bool:
        """Return whether there are other rows and none of them has a better mean."""
        means = [other.scores[measure.key]["mean"] for other in self.rows]
        best = min(means) if measure.lower_is_better else max(means)
        return len(means) > 1 and row.scores[measure.key]["mean"] == best

    def lines(self, mark: _Mark) -> list[list[Any]]:
        """Return the header and each row as lists of cells made by `mark`."""
        measures = self.task.measures
        names = [f"{each.name} [%]" if each.is_percent else each.name for each in measures]
        header = ["model", "runs", *names, "parameters", "MFLOPs", "segments/s"]
        lines = [[mark(name, False) for name in header]]
        for row in self.rows:
            scores = [(_score_text(each, row), self.is_best(row, each)) for each in measures]
            name_and_runs = [(row.name, False), (str(len(row.runs)), False)]
            lines.append([mark(*cell) for cell in name_and_runs + scores + _cost_cells(row)])
        return lines


def _score_text(measure: Measure, row: Row) -> str:
    """Return mean ± deviation as papers write them, of a single run the mean alone."""
    factor, digits = (100, 2) if measure.is_percent else (1, 3)
    names = ("mean", "std") if len(row.runs) > 1 else ("mean",)
    return " ± ".join(f"{factor * row.scores[measure.key][name]:.{digits}f}" for name in names)


def _cost_cells(row: Row) -> list[tuple[str, bool]]:
    costs = row.costs
    flops = "-" if costs["flops"] is None else f"{costs['flops'] / 1e6:.1f}"
    texts = [f"{costs['parameters']:,}", flops, f"{costs['samples_per_second']:.0f}"]
    return [(text, False) for text in texts]


def make_table(runs: Sequence[Run]) -> Table:
    """Return the table of the runs that have ended, in order of their start; print which have not.

    Raises InputError when none has ended, or when they cannot be compared.
    """
    ended = sorted((run for run in runs if run.result), key=lambda run: run.started)
    for run in runs:
        if run.result is None:
            print_line(f"Not in the table, as it has not ended: {run.folder}")
    if not ended:
        raise InputError("None of the runs has ended; resume one (--train --resume auto).")
    ended, first = _with_differing_files(ended), ended[0]
    for run in ended:
        if run.task != first.task:
            raise InputError(
                f"{run.folder} and {first.folder} have different scores: {run.task.name} of "
                f"{run.scale}, {first.task.name} of {first.scale}; give runs of one task and scale."
            )
    groups: dict[str, list[Run]] = {}
    for run in ended:
        groups.setdefault(repr(sorted(run.settings.items())), []).append(run)
    firsts, rows = [group[0] for group in groups.values()], []
    for group in groups.values():
        by_seed = {run.config.seed: run for run in group}  # a run and its copy count once
        scores = spread({seed: run.result.scores for seed, run in by_seed.items() if run.result})
        rows.append(Row(_name(group[0], firsts), list(by_seed.values()), scores))
    return Table(first.task, rows)


def _with_differing_files(runs: Sequence[Run]) -> list[Run]:
    """Return the runs, without the digest of a model's file where no two known ones differ.

    So runs of earlier versions, which did not record it, stay in the row of their model.
    """
    digests: dict[str, set[str]] = {}
    for run in runs:
        if run.model_digest is not None:
            digests.setdefault(run.config.model_name, set()).add(run.model_digest)
    return [
        run if len(digests.get(run.config.model_name, ())) > 1 else replace(run, model_digest=None)
        for run in runs
    ]


def _name(run: Run, others: Sequence[Run]) -> str:
    """Return the model's name, and those settings in which other runs of the model differ."""
    alike = [other.settings for other in others if other.config.model == run.config.model]
    differing = [
        f"{key}={_value_text(value, [other.get(key) for other in alike])}"
        for key, value in run.settings.items()
        if value is not None and any(other.get(key) != value for other in alike)
    ]
    return " ".join([run.config.model_name, *differing])


def _value_text(value: object, others: Sequence[object]) -> str:
    """Return a value with three digits, or with all (a search's have 17) to tell it from others."""

    def short(number: object) -> str:
        return f"{number:.3g}" if isinstance(number, float) else str(number)

    is_unique = all(other == value or short(other) != short(value) for other in others)
    return short(value) if is_unique else str(value)


def write_table(run_folders: Sequence[Path], folder: Path) -> Table:
    """Write the table of the runs as comparison.csv, .md, .tex and .json into `folder`; return it.

    Raises InputError when there are no runs, none that has ended, or runs of different tasks.
    """
    table = make_table(find_runs(run_folders))
    write_json(folder / "comparison.json", _json(table))
    for suffix, text in {"md": _markdown(table), "tex": _latex(table)}.items():
        write_bytes(folder / f"comparison.{suffix}", text.encode())
    write_csv(folder / "comparison.csv", _csv_rows(table))
    return table


def _json(table: Table) -> dict[str, Any]:
    rows = [
        {
            "model": row.name,
            "settings": row.runs[0].settings,
            "runs": {str(run.config.seed): str(run.folder) for run in row.runs},
            "scores": {
                measure.key: {**row.scores[measure.key], "best": table.is_best(row, measure)}
                for measure in table.task.measures
            },
            **row.costs,
        }
        for row in table.rows
    ]
    return {"task": table.task.name, "rows": rows}


def _csv_rows(table: Table) -> list[list[Any]]:
    measures = table.task.measures
    columns = [(measure.key, name) for measure in measures for name in ("mean", "std")]
    names = [f"{key}_{name}" for key, name in columns]
    header = ["model", "runs", *names, *table.rows[0].costs, "best_in"]
    rows = [
        [
            *(row.name, len(row.runs)),
            *(row.scores[key][name] for key, name in columns),
            *row.costs.values(),
            " ".join(measure.key for measure in measures if table.is_best(row, measure)),
        ]
        for row in table.rows
    ]
    return [header, *rows]


def _markdown(table: Table) -> str:
    def mark(text: str, is_best: bool) -> str:
        text = re.sub(r"([|*_`\\<])", r"\\\1", " ".join(text.split()))
        return f"**{text}**" if is_best else text

    header, *rows = table.lines(mark)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *rows))


def _latex(table: Table) -> str:
    def mark(text: str, is_best: bool) -> str:
        text = "".join(_TEX.get(character, character) for character in " ".join(text.split()))
        return rf"\textbf{{{text}}}" if is_best else text

    # Without the columns of runs and speed, which papers do not show.
    lines = (line[:1] + line[2:-1] for line in table.lines(mark))
    header, *rows = (" & ".join(line) + r" \\" for line in lines)
    columns = "l" + "r" * header.count("&")
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            rf"\begin{{tabular}}{{{columns}}}",
            *(r"\toprule", header, r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}",
            "",
        ]
    )
