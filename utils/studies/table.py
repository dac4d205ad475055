"""One table of many runs: mean and deviation over seeds, and what each model costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from system.console import fixed, print_line
from system.errors import InputError
from utils.run_config import MACHINE_SETTINGS
from utils.studies.runs import Run, have_same_test
from utils.tasks import Measure, Scores, Task
from utils.training.provenance import RunResult
from utils.training.run_folder import RUN_FILE
from utils.training.seeds import Spread, spread

_Mark = Callable[[str, bool], Any]  # makes a format's cell from a text and whether it is best


@dataclass(frozen=True)
class Row:
    """The runs that differ in their seed alone, or in how their machine executes them."""

    name: str
    runs: list[Run]
    scores: dict[str, Spread]  # by measure key

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
class Comparison:
    """Rows that can be compared."""

    task: Task
    rows: list[Row]
    is_of_one_test: bool = True  # all rows were tested on the same segments and labels

    @property
    def whole(self) -> Row | None:
        """The row of the unchanged model, when all other rows are variants of it."""
        names = {row.runs[0].config.model_name for row in self.rows}
        whole = [row for row in self.rows if {row.name} == names]
        return whole[0] if len(whole) == 1 < len(self.rows) else None

    def is_best(self, row: Row, measure: Measure) -> bool:
        """Return whether there are other rows, of the same test, and none is better."""
        if not self.is_of_one_test:
            return False
        means = [other.scores[measure.key]["mean"] for other in self.rows]
        numbers = [mean for mean in means if not math.isnan(mean)]
        best = (min if measure.lower_is_better else max)(numbers, default=math.nan)
        return len(means) > 1 and row.scores[measure.key]["mean"] == best

    def lines(self, mark: _Mark) -> list[list[Any]]:
        """Return the header and each row as lists of cells made by `mark`."""
        measures = self.task.measures
        names = [f"{each.name} [%]" if each.is_percent else each.name for each in measures]
        header = ["model", "runs", *names, "parameters", "MFLOPs", "segments/s"]
        lines = [[mark(name, False) for name in header]]
        for row in self.rows:
            scores = [mark(_score_text(each, row), self.is_best(row, each)) for each in measures]
            costs = [mark(text, False) for text in _cost_texts(row)]
            lines.append([mark(row.name, False), mark(str(len(row.runs)), False), *scores, *costs])
        return lines


def _score_text(measure: Measure, row: Row) -> str:
    """Return mean ± deviation as papers write them, of a single run the mean alone."""
    factor, digits = (100, 2) if measure.is_percent else (1, 3)
    values = (row.scores[measure.key]["mean"], row.scores[measure.key]["std"])
    return " ± ".join(fixed(factor * value, digits) for value in values if value is not None)


def _cost_texts(row: Row) -> list[str]:
    costs = row.costs
    flops = "-" if costs["flops"] is None else _millions(costs["flops"])
    return [f"{costs['parameters']:,}", flops, f"{costs['samples_per_second']:.0f}"]


def _millions(count: float) -> str:
    """Return a number in millions, with one decimal, or below 1 with three significant digits."""
    value = count / 1e6
    return f"{value:.1f}" if value >= 1 else f"{value:.3g}"


def make_table(runs: Sequence[Run]) -> Comparison:
    """Return the table of the runs that have ended, in order of their start; print which have not.

    Prints what is left out where the rows were not tested on the same segments and labels. Raises
    InputError when none has ended, or when they have different tasks or scales.
    """
    ended = sorted((run for run in runs if run.result), key=lambda run: run.started)
    for run in runs:
        if run.result is None:
            print_line(f"Not in the table, as it has not ended: {run.folder}")
    for run in ended:
        first = ended[0]
        if run.task != first.task:
            raise InputError(
                f"{run.folder} and {first.folder} have different scores: {run.task.name} of "
                f"{run.scale}, {first.task.name} of {first.scale}; give runs of one task and scale."
            )
    ended = _with_differing_files(list(filter(_has_all_scores, ended)))
    if not ended:
        raise InputError(
            "None of the runs has ended with all scores; resume one (--train --resume auto)."
        )
    groups: dict[str, list[Run]] = {}
    for run in ended:
        groups.setdefault(repr(sorted(_experiment(run).items())), []).append(run)
    firsts, rows = [group[0] for group in groups.values()], []
    tests = {run.digests["test"] for run in firsts}
    for group in groups.values():
        by_seed = _by_seed(group)
        scores = spread({seed: _scores(run) for seed, run in by_seed.items()})
        rows.append(Row(_name(group[0], firsts, len(tests) > 1), list(by_seed.values()), scores))
    table = Comparison(ended[0].task, rows, have_same_test(firsts))
    if not table.is_of_one_test:
        print_line(
            "No score is marked as best, and differences and errors are left out, as the test "
            "splits (data= in the names) differ in segments or labels, or are gone"
        )
    return table


def _experiment(run: Run) -> dict[str, Any]:
    """Return a run's settings without those that say how its machine executes it."""
    settings = run.settings.items()
    return {name: value for name, value in settings if name not in MACHINE_SETTINGS}


def _has_all_scores(run: Run) -> bool:
    """Return whether a run that has ended has all scores of its task; print what it lacks."""
    scores = _scores(run)
    lacking = [measure.key for measure in run.task.measures if measure.key not in scores]
    if lacking:  # another version of the program wrote its record
        print_line(
            f"Not in the table, as its {RUN_FILE} lacks {', '.join(lacking)}, which --train "
            f"--resume auto with its settings adds: {run.folder}"
        )
    return not lacking


def _scores(run: Run) -> Scores:
    return run.result.scores if run.result else {}


def _by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    """Return runs of the same settings by their seed: of a run and its copy, the first counts.

    Of two runs that are no copies the later one counts; prints which does not.
    """
    by_seed: dict[int, Run] = {}
    for run in runs:
        other = by_seed.setdefault(run.config.seed, run)  # whose results a copy does not have
        if repr(_scores(other)) != repr(_scores(run)):  # as text, NaN equals NaN
            by_seed[run.config.seed] = run
            print_line(
                f"Not in the table, as {run.folder} has the same settings and seed, and other "
                f"scores: {other.folder}"
            )
    return by_seed


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


def _name(run: Run, others: Sequence[Run], with_data: bool) -> str:
    """Return the model's name, and those settings in which other runs of the model differ.

    With `with_data`, the digests of its data too.
    """
    alike = [_experiment(other) for other in others if other.config.model == run.config.model]
    differing = [
        f"{key}={_value_text(value, [other.get(key) for other in alike])}"
        for key, value in _experiment(run).items()
        if (with_data and key == "data")
        or (value is not None and any(other.get(key) != value for other in alike))
    ]
    return " ".join([run.config.model_name, *differing])


def _value_text(value: object, others: Sequence[object]) -> str:
    """Return a value with three digits, or with all (a search's have 17) to tell it from others."""

    def short(number: object) -> str:
        return f"{number:.3g}" if isinstance(number, float) else str(number)

    is_unique = all(other == value or short(other) != short(value) for other in others)
    return short(value) if is_unique else str(value)
