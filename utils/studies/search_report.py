"""The files of a search: trials.csv, the run.json of the best trial, and report.html."""

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
from utils.studies.runs import find_runs, refuse_run
from utils.studies.search import Search, duration_text, ended_runs
from utils.studies.space import describe, value_text, with_values
from utils.studies.storage import explain_damage
from utils.studies.table import make_table
from utils.training.run_folder import RUN_FILE

TRIALS = "trials.csv"
STATES = {state: state.name.lower() for state in TrialState} | {TrialState.FAIL: "failed"}


def write_trials(search: Search, queue: Queue) -> None:
    """Write trials.csv, and run.json with the best configuration, as `--config` takes it.

    Raises InputError when a training has begun in the folder meanwhile.
    """
    folder, measure = search.config.checkpointdir, search.task.chosen_by
    refuse_run(folder)
    header = ["trial", "attempt", "state", f"val_{measure.key}", "epochs", "started", "seconds"]
    with explain_damage(queue.storage):
        rows = [_csv_row(trial, list(search.space)) for trial in queue.trials]
        datadir = queue.attributes["config"]["datadir"]  # a worker's may be elsewhere
    write_csv(folder / TRIALS, [_columns(header, search), *rows])
    best = queue.best
    if best is not None:
        chosen = {
            "trial": run_of(best),
            "trials": len(ended_runs(queue)),
            f"val_{measure.key}": best.value,
            "values": best.params,
        }
        config = with_values(search.config, best.params)
        values = {**config.outcome, "datadir": datadir}
        write_json(folder / RUN_FILE, {"search": chosen, "config": values})


def _columns(facts: Sequence[str], search: Search) -> list[str]:
    """Return the columns of trials: `facts`, the settings, and why a trial failed.

    A setting of the name of another column, such as epochs, is marked as a setting.
    """
    taken = {*facts, "why"}
    settings = [f"{name} (setting)" if name in taken else name for name in search.space]
    return [*facts, *settings, "why"]


def _csv_row(trial: FrozenTrial, names: Sequence[str]) -> list[Any]:
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

    The report has test scores once the `chosen` configuration has been trained and tested.
    """
    path = search.config.checkpointdir / "report.html"
    write_trials(search, queue)
    with warning_if_unwritten(path):
        title = f"Search of {len(queue.runs)} trials for {chosen.model_name}"
        write_report(path, f"{title} in {path.parent}", _sections(search, queue, chosen))


def _sections(search: Search, queue: Queue, chosen: RunConfig) -> list[Section]:
    config, task = search.config, search.task
    states = [STATES[trial.state] for trial in queue.runs.values() if trial.state.is_finished()]
    seconds = sum(seconds_of(trial) or 0 for trial in queue.trials)
    counts = [f"{states.count(name)} {name}" for name in STATES.values() if name in states]
    text = (
        f"{len(states)} trials in {duration_text(seconds)} of work: {', '.join(counts)}. Each is "
        f"judged by its best validation {task.chosen_by.name}; a pruned one has that of its last "
        "epoch. No trial has seen the test split."
    )
    return [
        Section("The search", [text, _draw_search(search, queue)]),
        Section("What it chose", [_chosen_table(search, queue), *_test_scores(search, chosen)]),
        Section("Trials", [_trial_table(search, queue)]),
        *about_run(config, search.splits, task, search.options(config).device),
    ]


def _draw_search(search: Search, queue: Queue) -> Picture:
    from utils.studies.search_plot import plot_search  # matplotlib is slow to import

    measure = search.task.chosen_by
    meaning = f"Validation {measure.name} by trial, and how much each setting mattered"
    picture = Picture(search.config.checkpointdir / "search.png", meaning, is_wide=True)
    importance: dict[str, float] = {}  # share of the variance of scores, by setting
    with suppress(ValueError, RuntimeError):  # too few trials, or all alike
        importance = get_param_importances(queue.study, evaluator=FanovaImportanceEvaluator(seed=0))
    plot_search(picture.path, queue.trials, importance, measure)
    return picture


def _chosen_table(search: Search, queue: Queue) -> Table:
    best = queue.best
    values = {} if best is None else best.params
    defaults = vars(config_class(search.config.model_name)())
    before = {**search.config.outcome, **defaults, **search.config.set}
    rows = [
        [name, Cell(value_text(values.get(name)), is_best=True), before.get(name), describe(dist)]
        for name, dist in search.space.items()
    ]
    return Table(["setting", "chosen", "before", "among"], rows)


def _test_scores(search: Search, chosen: RunConfig) -> list[str | Table]:
    """Return the test scores of the chosen configuration, or a text when there are none yet."""
    try:
        runs = find_runs([chosen.checkpointdir])
        table = make_table([run for run in runs if run.result is not None])
    except InputError:
        return ["It has not been trained and tested yet."]
    header, *rows = table.lines(lambda text, _: text)
    text = f"Mean ± sample deviation over the seeds on the test split, as {chosen.checkpointdir}:"
    return [text, Table(header, rows)]


def _trial_table(search: Search, queue: Queue) -> Table:
    """Return a table of the trials, the best first, and those without a score last."""
    measure, best = search.task.chosen_by, queue.best
    sign = 1 if measure.lower_is_better else -1

    def sort_key(trial: FrozenTrial) -> tuple[bool, bool, float]:
        is_pruned = trial.state != TrialState.COMPLETE
        return trial.value is None, is_pruned, sign * (trial.value or 0)

    rows = []
    for trial in sorted(queue.trials, key=sort_key):
        score = "-" if trial.value is None else measure.text(trial.value)
        seconds = seconds_of(trial)
        values = [value_text(trial.params.get(name)) for name in search.space]
        time = "-" if seconds is None else f"{seconds:.0f}"
        reason = why_failed(trial) if trial.state == TrialState.FAIL else ""
        facts = (run_of(trial), STATES[trial.state], Cell(score, trial == best), trial.last_step)
        rows.append([*facts, time, *values, reason])
    header = ["trial", "state", f"val {measure.name}", "epochs", "seconds"]
    return Table(_columns(header, search), rows)
