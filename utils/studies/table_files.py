"""The table of a comparison as files: JSON, CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from system.files import write_bytes, write_csv, write_json
from utils.studies.runs import find_runs
from utils.studies.table import Comparison, make_table

_STATISTICS: tuple[Literal["mean", "std"], ...] = ("mean", "std")
_TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"},
}


def write_table(run_folders: Sequence[Path], folder: Path) -> Comparison:
    """Write the table of the runs as comparison.csv, .md, .tex and .json into `folder`; return it.

    Raises InputError when there are no runs, none that has ended, or runs of different tasks.
    """
    table = make_table(find_runs(run_folders))
    write_json(folder / "comparison.json", _json(table))
    for suffix, text in {"md": _markdown(table), "tex": _latex(table)}.items():
        write_bytes(folder / f"comparison.{suffix}", text.encode())
    write_csv(folder / "comparison.csv", _csv_rows(table))
    return table


def _json(table: Comparison) -> dict[str, Any]:
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


def _csv_rows(table: Comparison) -> list[list[Any]]:
    measures = table.task.measures
    names = [f"{measure.key}_{name}" for measure in measures for name in _STATISTICS]
    header = ["model", "runs", *names, *table.rows[0].costs, "best_in"]
    rows = [
        [
            *(row.name, len(row.runs)),
            *(row.scores[each.key][name] for each in measures for name in _STATISTICS),
            *row.costs.values(),
            " ".join(measure.key for measure in measures if table.is_best(row, measure)),
        ]
        for row in table.rows
    ]
    return [header, *rows]


def _markdown(table: Comparison) -> str:
    def mark(text: str, is_best: bool) -> str:
        # Of brackets, those that make a link of the ones before them.
        text = re.sub(r"([|*_`\\<~&]|(?<=\])\()", r"\\\1", " ".join(text.split()))
        return f"**{text}**" if is_best else text

    header, *rows = table.lines(mark)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *rows))


def _latex(table: Comparison) -> str:
    def mark(text: str, is_best: bool) -> str:
        text = "".join(_TEX.get(character, character) for character in " ".join(text.split()))
        text = re.sub(r"([-'`])(?=\1)", r"\1{}", text)  # else two make a dash or a quotation mark
        text = re.sub(r"^-(?=\d)", "$-$", text)  # a minus, not a hyphen
        if text.startswith(("[", "*")):  # an argument of the command before it
            text = f"{{}}{text}"
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
