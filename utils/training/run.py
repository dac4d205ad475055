"""Runs a training from its configuration to its results, once or for several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from data.loading.options import LoaderOptions
from data.loading.split import Split
from system.console import fixed, print_heading, print_line
from system.files import check_writable, write_json
from utils.reports.about import about_run, describe_data
from utils.reports.bootstrap import Bootstrap
from utils.reports.costs import count_parameters, count_total_flops
from utils.reports.evaluation import Evaluation, evaluate
from utils.reports.evaluation_report import evaluation_sections
from utils.reports.html import Picture, Section, Table, warning_if_unwritten, write_report
from utils.reports.results import (
    print_scores,
    result_folder,
    write_evaluation,
    written_certainty,
)
from utils.run_config import RunConfig
from utils.running.setup import open_training, place_model
from utils.training.history import Epoch, best_on_test
from utils.training.provenance import RunResult, describe_run, now
from utils.training.run_folder import (
    BEST,
    LOGS,
    RUN_FILE,
    check_run_folder,
    file_to_resume,
    lock_run_folder,
    read_record,
    remove_run,
)
from utils.training.seeds import print_spread, write_scores
from utils.training.trainer import Trainer

_CURVES = "curves.png"


def train(
    config: RunConfig,
    options: LoaderOptions,
    resume: str | None = None,
    overwrite: bool = False,
    after_epoch: Callable[[Epoch], None] | None = None,
) -> Evaluation:
    """Train, then evaluate the test split at the best validation epoch; returns the evaluation.

    `resume` is the file to resume from, or `auto`: `last.pth` of the run's own folder, if there
    is one. `overwrite` removes an earlier run from that folder; with `auto` it is this run, which
    begins again. `after_epoch` is passed to `Trainer`. Raises InputError when the data, the model
    or the folder cannot be used.
    """
    resumed = file_to_resume(config, resume)
    processes = options.processes
    config, splits, model, task = open_training(config, resumed=resumed, processes=processes)
    data = describe_data(config.data_folder, splits)
    bootstrap = Bootstrap(config, splits["test"], task)
    writes = config.save and options.processes.is_first
    with lock_run_folder(config.checkpointdir) if writes else nullcontext():
        if writes:  # another process may have written into the folder until now
            check_run_folder(config, resume, resumed, overwrite)
        model = place_model(model, options)
        trainer = Trainer(model, splits, task, config, options, data, after_epoch)
        if resumed is not None:
            trainer.resume(resumed)
        record, path = {}, config.checkpointdir / RUN_FILE
        if writes:
            check_writable(config.resultdir)  # fails now, not after the training
            earlier = {} if resume is None else read_record(config.checkpointdir) or {}
            if overwrite:  # only now that the run is known to start
                check_writable(config.checkpointdir / LOGS)
                remove_run(config.checkpointdir)
            record = describe_run(trainer, data, earlier)
            write_json(path, record)
        trainer.run()
        evaluation = _evaluate_test(trainer)
        certainty = bootstrap.measure(evaluation)
        if writes:
            results, pictures = _write_results(trainer, evaluation, data, certainty)
            result = _run_result(trainer, evaluation, splits["test"][[0]].inputs)
            write_json(path, {**record, "ended": now(), "result": asdict(result)})
            with warning_if_unwritten(results / "report.html"):
                certainty = written_certainty(results / "test", evaluation)
                certainty = certainty or bootstrap.find(evaluation)
                write_training_report(results, trainer, splits, evaluation, certainty, pictures)
    return evaluation


def train_and_validate(
    config: RunConfig, options: LoaderOptions, after_epoch: Callable[[Epoch], None]
) -> Epoch:
    """Train, and return the best epoch by validation; the test split is never opened.

    `after_epoch` is passed to `Trainer`. Writes files only if `config.save`. Raises InputError as
    `train` does.
    """
    config, splits, model, task = open_training(config, ("train", "val"))
    data = describe_data(config.data_folder, splits)
    model = place_model(model, options)
    trainer = Trainer(model, splits, task, config, options, data, after_epoch)
    trainer.run()
    return trainer.best


def _evaluate_test(trainer: Trainer) -> Evaluation:
    """Score the test split with the best weights; prints its scores and what to compare them to."""
    task, split = trainer.task, trainer.splits["test"]
    chosen_by = task.chosen_by.name
    print_heading(f"Test scores at epoch {trainer.best.number}, the best by validation {chosen_by}")
    evaluation = evaluate(trainer.predictor, split, task, trainer.evaluating)
    print_scores(evaluation, task)
    for name, column in task.outputs.items():
        mean = trainer.splits["train"].labels[:, column].mean()
        error = abs(split.labels[:, column] - mean).mean()
        suffix = f" ({name})" if len(task.outputs) > 1 else ""
        print_line(
            f"Always predicting the training labels' mean, {fixed(float(mean), 2)}, would give "
            f"MAE {error:.4f}{suffix}"
        )
    lines = best_on_test(trainer.epochs, task)
    if lines:
        print_line("\nChosen on the test set, as in the released code; not a fair comparison:")
    for line in lines:
        print_line(f"  {line}")
    return evaluation


def _run_result(trainer: Trainer, evaluation: Evaluation, segment: Sequence[Tensor]) -> RunResult:
    """Return the results of a run; `segment` has the inputs of one segment, to count FLOPs."""
    model = trainer.model.eval()
    return RunResult(
        epoch=trainer.best.number,
        scores=evaluation.scores,
        parameters=count_parameters(model),
        flops=count_total_flops(model, segment),
        # An epoch that was resumed after its last step has no speed.
        samples_per_second=median([e.speed for e in trainer.epochs if e.speed] or [0.0]),
    )


def _write_results(
    trainer: Trainer, evaluation: Evaluation, data: dict[str, Any], certainty: dict[str, Any]
) -> tuple[Path, list[Picture]]:
    """Write the best epoch's evaluation and the curves; returns their folder, and the pictures."""
    from utils.reports.plots import plot_curves  # matplotlib is slow to import

    config, task, epochs = trainer.config, trainer.task, trainer.epochs
    checkpoint = config.checkpointdir / BEST
    folder = result_folder(
        config.resultdir, checkpoint, data["digests"]["test"], precision=config.precision
    )
    details = {**data, "split": "test", "checkpoint": str(checkpoint), "model": config.model}
    details["precision"] = config.precision
    pictures = write_evaluation(folder / "test", evaluation, task, {**details, **certainty})
    measure = task.chosen_by
    values = {
        name: [epoch.scores[name][measure.key] for epoch in epochs] for name in epochs[0].scores
    }
    losses = [epoch.loss for epoch in epochs]
    plot_curves(folder / _CURVES, losses, values, trainer.best.number, measure.name)
    print_line(f"\nCheckpoints are in {config.checkpointdir}, results in {folder}")
    return folder, pictures


def write_training_report(
    folder: Path,
    trainer: Trainer,
    splits: Mapping[str, Split],
    evaluation: Evaluation,
    certainty: dict[str, Any],
    pictures: Sequence[Picture],
) -> None:
    """Write report.html, with curves and the test evaluation, into the folder of the curves."""
    config, task, best = trainer.config, trainer.task, trainer.best
    chosen_by = task.chosen_by.name
    text = (
        f"{config.model} with {count_parameters(trainer.model):,} parameters, trained for "
        f"{len(trainer.epochs)} epochs; epoch {best.number} has the best validation {chosen_by}. "
        "The scores of train are of predictions made while the weights changed, with dropout."
    )
    header = [f"epoch {best.number}", *(measure.name for measure in task.measures)]
    rows = [
        [name, *(measure.text(scores[measure.key]) for measure in task.measures)]
        for name, scores in best.scores.items()
    ]
    curves = Picture(folder / _CURVES, f"Loss and {chosen_by} by epoch", is_wide=True)
    sections = [
        Section("Training", [text, curves, Table(header, rows)]),
        *evaluation_sections(evaluation, task, splits["test"], certainty, pictures),
        *about_run(config, splits, task, trainer.options.device),
    ]
    title = f"{config.model} trained in {config.checkpointdir}"
    write_report(folder / "report.html", title, sections)


def train_by_seed(
    config: RunConfig,
    seeds: Sequence[int],
    options: LoaderOptions,
    resume: str | None,
    overwrite: bool,
) -> None:
    """Train once per seed, each in its own folder; prints mean and standard deviation.

    Raises InputError as `train` does; for a folder that cannot be used, before the first training.
    """
    runs = {seed: config.for_seed(seed) for seed in seeds}
    writes = config.save and options.processes.is_first
    for run in runs.values() if writes else ():
        check_run_folder(run, resume, file_to_resume(run, resume, quietly=True), overwrite)
    scores = {}
    for seed, run in runs.items():
        print_heading(f"Seed {seed}")
        scores[seed] = train(run, options, resume, overwrite).scores
    print_heading(f"Test scores over the seeds {', '.join(map(str, scores))}")
    print_spread(scores)
    if writes:
        write_scores(config.checkpointdir, scores)
