"""A search as files to go on with (trials.csv, the best run.json), and as one report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from models.registry import config_class
from system.errors import InputError
from system.files import write_csv, write_json
from utils.reports.about import about_run
from utils.reports.html import Cell, Picture, Section, Table, warning_if_unwritten, write_report
from utils.run_config import RunConfig
from utils.studies.queue import Queue, attempt_of, run_of, seconds_of, why_failed
from utils.studies.runs import find_runs
from utils.studies.search import Search, best_trial, ended_runs
from utils.studies.space import describe, value_text, with_values
from utils.studies.storage import telling_of_storage
from utils.studies.table import make_table
from utils.training.run_folder import RUN_FILE

TRIALS = "trials.csv"
STATES = {state: state.name.lower() for state in TrialState} | {TrialState.FAIL: "failed"}


def write_trials(search: Search, queue: Queue) -> None:
    """Write the trials, and the best configuration as `--config` takes it, into their folder."""
    folder, measure = search.config.checkpointdir, search.task.chosen_by
    header = ["trial", "attempt", "state", f"val_{measure.key}", "epochs", "started", "seconds"]
    rows = [_line(trial, list(search.space)) for trial in queue.trials]
    write_csv(folder / TRIALS, [[*header, *search.space, "why"], *rows])
    best = best_trial(queue)
    if best is not None:
        chosen = {
            "trial": run_of(best),
            "trials": len(ended_runs(queue)),
            f"val_{measure.key}": best.value,
            "values": best.params,
        }
        config = with_values(search.config, best.params)
        datadir = queue.study.user_attrs["config"]["datadir"]  # whoever's data these are
        values = {**config.outcome, "datadir": datadir}
        write_json(folder / RUN_FILE, {"search": chosen, "config": values})


def _line(trial: FrozenTrial, names: Sequence[str]) -> list[Any]:
    started, seconds = trial.datetime_start, seconds_of(trial)
    return [
        *(run_of(trial), attempt_of(trial), STATES[trial.state], trial.value),
        trial.last_step,
        None if started is None else started.isoformat(timespec="seconds"),
        None if seconds is None else round(seconds, 1),
        *(trial.params.get(name) for name in names),
        why_failed(trial) if trial.state == TrialState.FAIL else None,
    ]


def write_search(search: Search, queue: Queue, chosen: RunConfig) -> None:
    """Write all files of a search into its folder, report.html among them.

    Test scores are in it where the `chosen` configuration has been trained and tested.
    """
    path = search.config.checkpointdir / "report.html"
    with telling_of_storage(queue.storage):
        write_trials(search, queue)
    with warning_if_unwritten(path):
        title = f"Search of {len(queue.runs)} trials for {chosen.model_name}"
        write_report(path, f"{title} in {path.parent}", _sections(search, queue, chosen))


def _sections(search: Search, queue: Queue, chosen: RunConfig) -> list[Section]:
    config, task = search.config, search.task
    ended = [trial for trial in queue.runs.values() if trial.state.is_finished()]
    spent = sum(seconds_of(trial) or 0 for trial in queue.trials)
    count = {name: sum(STATES[one.state] == name for one in ended) for name in STATES.values()}
    text = (
        f"{len(ended)} trials in {spent / 60:.0f} minutes of work: "
        + ", ".join(f"{number} {name}" for name, number in count.items() if number)
        + f". Each is judged by its best validation {task.chosen_by.name}; a pruned one has that "
        "of its last epoch. No trial has seen the test split."
    )
    return [
        Section("The search", [text, _draw(search, queue)]),
        Section("What it chose", [_chosen(search, queue), *_tested(search, chosen)]),
        Section("Trials", [_trials(search, queue)]),
        *about_run(config, search.splits, task, search.options(config).device),
    ]


def _draw(search: Search, queue: Queue) -> Picture:
    from utils.studies.search_plot import plot_search  # matplotlib is slow to import

    measure = search.task.chosen_by
    what = f"Validation {measure.name} by trial, and how much each setting mattered"
    picture = Picture(search.config.checkpointdir / "search.png", what, is_wide=True)
    importance: dict[str, float] = {}  # of each setting, its share of the variance among trials
    with suppress(ValueError, RuntimeError):  # too few trials, or all alike
        importance = get_param_importances(queue.study, evaluator=FanovaImportanceEvaluator(seed=0))
    plot_search(picture.path, queue.trials, importance, measure)
    return picture


def _chosen(search: Search, queue: Queue) -> Table:
    best = best_trial(queue)
    values = {} if best is None else best.params
    own = vars(config_class(search.config.model_name)())  # that the search went out from
    around = {**search.config.outcome, **own, **search.config.set}
    rows = [
        [name, Cell(value_text(values.get(name)), is_best=True), around.get(name), describe(space)]
        for name, space in search.space.items()
    ]
    return Table(["setting", "chosen", "before", "among"], rows)


def _tested(search: Search, chosen: RunConfig) -> list[str | Table]:
    """Return the test scores of what was chosen, once there are any."""
    try:
        runs = find_runs([chosen.checkpointdir])
        table = make_table([run for run in runs if run.result is not None])
    except InputError:
        return ["It has not been trained and tested yet."]
    header, *rows = table.lines(lambda text, _: text)
    text = f"Mean ± sample deviation over the seeds on the test split, as {chosen.checkpointdir}:"
    return [text, Table(header, rows)]


def _trials(search: Search, queue: Queue) -> Table:
    """Lay out the trials, the best first, and those without a score last."""
    measure, best = search.task.chosen_by, best_trial(queue)
    sign = 1 if measure.lower_is_better else -1

    def place(trial: FrozenTrial) -> tuple[bool, bool, float]:
        is_pruned = trial.state != TrialState.COMPLETE
        return trial.value is None, is_pruned, sign * (trial.value or 0)

    rows = []
    for trial in sorted(queue.trials, key=place):
        shown = "-" if trial.value is None else measure.text(trial.value)
        spent = seconds_of(trial)
        row = [
            *(run_of(trial), STATES[trial.state], Cell(shown, trial == best), trial.last_step),
            "-" if spent is None else f"{spent:.0f}",
            *(value_text(trial.params.get(name)) for name in search.space),
            why_failed(trial) if trial.state == TrialState.FAIL else "",
        ]
        rows.append(row)
    header = ["trial", "state", f"val {measure.name}", "epochs", "seconds", *search.space, "why"]
    return Table(header, rows)
