"""Runs the action that the options of `main_msaf.py` ask for; imports its module only then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from system.console import print_line
from system.processes import Processes, join_processes, leave_processes
from utils.option_checks import WORKER_SETTINGS
from utils.run_config import RunConfig

if TYPE_CHECKING:
    from data.loading.options import LoaderOptions

DEFAULT_SPLIT = "test"  # unless --split says otherwise
Study = Mapping[str, RunConfig]  # configurations by the names of the runs


def run_action(config: RunConfig, study: Study | None, arguments: Mapping[str, Any]) -> None:
    """Do what the checked options ask for; `study` has the runs of --compare or --ablate."""
    if arguments["table"]:
        from utils.studies.report import tabulate

        tabulate(arguments["table"], config.resultdir)
    elif arguments["export"]:
        from models.export import export

        export(config.needed_checkpoint, arguments["export"], config.model)
        print_line(f"Written: {arguments['export']}")
    else:
        from utils.running.setup import make_options

        processes = join_processes()
        options = make_options(config, processes)
        if study is not None or arguments["tune"] or arguments["worker"]:
            _train_several(config, study, arguments, processes)
        else:
            _train_or_score(config, arguments, options)
        leave_processes(processes)


def _train_several(
    config: RunConfig, study: Study | None, arguments: Mapping[str, Any], processes: Processes
) -> None:
    seeds, url = arguments["seeds"], arguments["storage"]
    if study is not None:
        from utils.studies.comparison import run_study

        run_study(study, seeds, processes, arguments["overwrite"], arguments["dry_run"], url)
    elif arguments["tune"]:
        from utils.studies.tune import dry_run_search, make_search, tune

        model_settings = {text.partition("=")[0] for text in arguments.get("set", ())}
        not_searched = model_settings | {name for name in vars(config) if name in arguments}
        search = make_search(config, arguments["space"], not_searched)
        if arguments["dry_run"]:
            dry_run_search(search, arguments["tune"], url)
        else:
            tune(search, arguments["tune"], seeds, url, processes)
    else:
        from utils.studies.worker import work_in

        overrides = {name: arguments[name] for name in WORKER_SETTINGS if name in arguments}
        work_in(arguments["worker"], overrides, url, processes)


def _train_or_score(
    config: RunConfig, arguments: Mapping[str, Any], options: LoaderOptions
) -> None:
    split = arguments["split"] or DEFAULT_SPLIT
    seeds, resume, overwrite = (arguments[name] for name in ("seeds", "resume", "overwrite"))
    if arguments["dry_run"]:
        from utils.training.dry_run import dry_run_evaluation, dry_run_training

        if arguments["train"] or config.checkpoint is None:
            dry_run_training(config, options, seeds, resume, overwrite)
        else:
            dry_run_evaluation(config, split, options)
    elif arguments["train"]:
        from utils.training.run import train, train_by_seed

        if seeds:
            train_by_seed(config, seeds, options, resume, overwrite)
        else:
            train(config, options, resume, overwrite)
    elif arguments["predict"]:
        from utils.reports.predict_path import predict_path

        predict_path(config, arguments["predict"], arguments["bert"], options)
    elif arguments["robustness"]:
        from utils.reports.robustness import measure_robustness

        measure_robustness(config, split, options, arguments["beside"])
    else:
        from utils.reports.evaluate_checkpoint import evaluate_checkpoint

        evaluate_checkpoint(config, split, options, arguments["ids"] or arguments["attention"])
