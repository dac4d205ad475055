"""A search as files to go on with: trials.csv, and the run.json of the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from system.files import write_csv, write_json
from utils.studies.queue import Queue, attempt_of, run_of, seconds_of, why_failed
from utils.studies.search import Search, best_trial, ended_runs
from utils.studies.space import with_values
from utils.training.run_folder import RUN_FILE

TRIALS = "trials.csv"
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def write_trials(search: Search, queue: Queue) -> None:
    """Write the trials, and the best configuration as `--config` takes it, into their folder."""
    folder, measure = search.config.checkpointdir, search.task.chosen_by
    header = ["trial", "attempt", "state", f"val_{measure.key}", "epochs", "started", "seconds"]
    rows = [_row(trial, list(search.space)) for trial in queue.trials]
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


def value_of(trial: FrozenTrial) -> float | None:
    """Return the validation score of a trial's end, or of the epoch that it was pruned after."""
    return trial.value if trial.state.is_finished() else None


def _row(trial: FrozenTrial, names: Sequence[str]) -> list[Any]:
    started, seconds = trial.datetime_start, seconds_of(trial)
    return [
        *(run_of(trial), attempt_of(trial), STATES[trial.state], value_of(trial)),
        trial.last_step,
        None if started is None else started.isoformat(timespec="seconds"),
        None if seconds is None else round(seconds, 1),
        *(trial.params.get(name) for name in names),
        why_failed(trial) if trial.state == TrialState.FAIL else None,
    ]
