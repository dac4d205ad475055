"""What `main_msaf.py` is asked to do, done; each action is imported when it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from system.console import print_line
from system.processes import Processes, join_processes, leave_processes
from utils.run_config import RunConfig

EVALUATED = "test"  # unless --split says otherwise

if TYPE_CHECKING:
    from data.loading.options import LoaderOptions


@dataclass(frozen=True)
class _Request:
    """What the command line asks for."""

    config: RunConfig
    study: Mapping[str, RunConfig] | None  # of --compare or --ablate
    arguments: Mapping[str, Any]
    processes: Processes
    options: LoaderOptions

    @property
    def split(self) -> str:
        """What to evaluate on."""
        return str(self["split"] or EVALUATED)

    def __getitem__(self, name: str) -> Any:
        """Return the value of an option that is no setting of a run."""
        return self.arguments[name]


def act(
    config: RunConfig, study: Mapping[str, RunConfig] | None, arguments: Mapping[str, Any]
) -> None:
    """Do what the checked arguments ask for: the first of `_ALONE` or `_ACTIONS`, or evaluate."""
    for name, write in _ALONE.items():
        if arguments[name]:
            return write(config, arguments)
    from utils.running.setup import make_options

    processes = join_processes()
    options = make_options(config, processes)
    actions = (action for name, action in _ACTIONS.items() if arguments[name])
    next(actions, _evaluate)(_Request(config, study, arguments, processes, options))
    leave_processes(processes)


def _table(config: RunConfig, arguments: Mapping[str, Any]) -> None:
    from utils.studies.report import tabulate

    tabulate(arguments["table"], config.resultdir)


def _export(config: RunConfig, arguments: Mapping[str, Any]) -> None:
    from models.export import export

    export(config.needed_checkpoint, arguments["export"], config.model)
    print_line(f"Written: {arguments['export']}")


def _study(asked: _Request) -> None:
    from utils.studies.comparison import run_study

    assert asked.study is not None
    how = asked["overwrite"], asked["dry_run"], asked["storage"]
    run_study(asked.study, asked["seeds"], asked.processes, *how)


def _tune(asked: _Request) -> None:
    from utils.studies.tune import dry_run_search, make_search, tune

    search = make_search(asked.config, asked["space"], _given_settings(asked.arguments))
    if asked["dry_run"]:
        dry_run_search(search, asked["tune"], asked["storage"])
    else:
        tune(search, asked["tune"], asked["seeds"], asked["storage"], asked.processes)


def _given_settings(arguments: Mapping[str, Any]) -> set[str]:
    """Return the names of the settings, the model's own too, that the command line gives."""
    of_model = {text.partition("=")[0] for text in arguments.get("set", ())}
    return of_model | {name for name in vars(RunConfig()) if name in arguments}


def _work(asked: _Request) -> None:
    from utils.option_checks import OF_A_WORKER
    from utils.studies.worker import work_in

    given = {name: asked[name] for name in OF_A_WORKER if name in asked.arguments}
    work_in(asked["worker"], given, asked["storage"], asked.processes)


def _dry_run(asked: _Request) -> None:
    from utils.reports.dry_run import dry_run_evaluation, dry_run_training

    if asked["train"] or asked.config.checkpoint is None:
        dry_run_training(asked.config, asked.options)
    else:
        dry_run_evaluation(asked.config, asked.split, asked.options)


def _train(asked: _Request) -> None:
    from utils.training.run import train, train_by_seed

    how = asked.options, asked["resume"], asked["overwrite"]
    if asked["seeds"]:
        train_by_seed(asked.config, asked["seeds"], *how)
    else:
        train(asked.config, *how)


def _predict(asked: _Request) -> None:
    from utils.reports.predict_path import predict_path

    predict_path(asked.config, asked["predict"], asked["bert"], asked.options)


def _robustness(asked: _Request) -> None:
    from utils.reports.robustness import measure_robustness

    measure_robustness(asked.config, asked.split, asked.options, asked["beside"])


def _evaluate(asked: _Request) -> None:
    from utils.reports.evaluate_checkpoint import evaluate_checkpoint

    attends_to = asked["ids"] or asked["attention"]
    evaluate_checkpoint(asked.config, asked.split, asked.options, attends_to)


# By the option that asks for it; the first of several is done. A single process does the first two.
_ALONE: dict[str, Callable[[RunConfig, Mapping[str, Any]], None]] = {
    "table": _table,
    "export": _export,
}
_ACTIONS: dict[str, Callable[[_Request], None]] = {
    "compare": _study,
    "ablate": _study,
    "tune": _tune,
    "worker": _work,
    "dry_run": _dry_run,
    "train": _train,
    "predict": _predict,
    "robustness": _robustness,
}
