"""What `main_msaf.py` is asked to do, done; each action is imported when it is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from system.console import print_line
from system.processes import Processes, join_processes, leave_processes
from utils.option_checks import OF_A_WORKER
from utils.run_config import RunConfig

if TYPE_CHECKING:
    from data.loading.options import LoaderOptions

EVALUATED = "test"  # unless --split says otherwise


def act(config: RunConfig, study: Mapping[str, RunConfig] | None, asked: Mapping[str, Any]) -> None:
    """Do what the checked options `asked` for; `study` is what --compare or --ablate trains."""
    if asked["table"]:
        from utils.studies.report import tabulate

        tabulate(asked["table"], config.resultdir)
    elif asked["export"]:
        from models.export import export

        export(config.needed_checkpoint, asked["export"], config.model)
        print_line(f"Written: {asked['export']}")
    else:
        from utils.running.setup import make_options

        processes = join_processes()
        options = make_options(config, processes)
        if study is not None or asked["tune"] or asked["worker"]:
            _train_several(config, study, asked, processes)
        else:
            _train_or_score(config, asked, options)
        leave_processes(processes)


def _train_several(
    config: RunConfig,
    study: Mapping[str, RunConfig] | None,
    asked: Mapping[str, Any],
    processes: Processes,
) -> None:
    seeds, url = asked["seeds"], asked["storage"]
    if study is not None:
        from utils.studies.comparison import run_study

        run_study(study, seeds, processes, asked["overwrite"], asked["dry_run"], url)
    elif asked["tune"]:
        from utils.studies.tune import dry_run_search, make_search, tune

        of_model = {text.partition("=")[0] for text in asked.get("set", ())}
        given = of_model | {name for name in vars(config) if name in asked}
        search = make_search(config, asked["space"], given)
        if asked["dry_run"]:
            dry_run_search(search, asked["tune"], url)
        else:
            tune(search, asked["tune"], seeds, url, processes)
    else:
        from utils.studies.worker import work_in

        own = {name: asked[name] for name in OF_A_WORKER if name in asked}
        work_in(asked["worker"], own, url, processes)


def _train_or_score(config: RunConfig, asked: Mapping[str, Any], options: LoaderOptions) -> None:
    split = asked["split"] or EVALUATED
    if asked["dry_run"]:
        from utils.training.dry_run import dry_run_evaluation, dry_run_training

        if asked["train"] or config.checkpoint is None:
            how = asked["seeds"], asked["resume"], asked["overwrite"]
            dry_run_training(config, options, *how)
        else:
            dry_run_evaluation(config, split, options)
    elif asked["train"]:
        from utils.training.run import train, train_by_seed

        if asked["seeds"]:
            train_by_seed(config, asked["seeds"], options, asked["resume"], asked["overwrite"])
        else:
            train(config, options, asked["resume"], asked["overwrite"])
    elif asked["predict"]:
        from utils.reports.predict_path import predict_path

        predict_path(config, asked["predict"], asked["bert"], options)
    elif asked["robustness"]:
        from utils.reports.robustness import measure_robustness

        measure_robustness(config, split, options, asked["beside"])
    else:
        from utils.reports.evaluate_checkpoint import evaluate_checkpoint

        evaluate_checkpoint(config, split, options, asked["ids"] or asked["attention"])
