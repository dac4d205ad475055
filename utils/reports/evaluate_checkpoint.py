"""Evaluating a checkpoint on a split."""

from __future__ import annotations

from data.loading.on_device import place_splits
from data.loading.options import LoaderOptions
from data.loading.split import Split
from models.checkpoint import read_checkpoint
from system.console import print_heading, print_line
from system.files import check_writable
from utils.reports.about import about_run, describe_data
from utils.reports.attention import AttentionReport, Segments, attention_section
from utils.reports.bootstrap import Bootstrap
from utils.reports.evaluation import (
    Evaluation,
    Predictor,
    evaluate,
    evaluation_options,
    report_not_finite,
)
from utils.reports.evaluation_report import evaluation_sections
from utils.reports.html import warning_if_unwritten, write_report
from utils.reports.results import (
    evaluation_folder,
    print_scores,
    write_evaluation,
    written_certainty,
)
from utils.run_config import RunConfig
from utils.running.setup import open_model, place_model


def evaluate_checkpoint(
    config: RunConfig, split_name: str, options: LoaderOptions, attention: Segments | None = None
) -> Evaluation:
    """Score `config.checkpoint` on a split, print the scores, and write all results.

    `attention` also writes attention maps: of this many of the worst predicted segments, or of
    those with these ids. Raises InputError when the checkpoint or the split cannot be read, when
    they do not fit each other, or when there is nothing to show attention of.
    """
    checkpoint = read_checkpoint(config.needed_checkpoint)
    in_pieces = checkpoint.text_encoder is not None
    split = Split(config.data_folder / split_name, takes_pieces=in_pieces)
    config, model, task = open_model(config, checkpoint, split)
    data = describe_data(config.data_folder, {split_name: split})
    maps = (
        None if attention is None else AttentionReport(attention, config.model_name, model, split)
    )
    bootstrap = Bootstrap(config, split, task)
    if config.save:
        check_writable(config.resultdir)  # raises before the work
    placed = place_splits({split_name: split}, options)[split_name]
    options = evaluation_options(options, placed)
    predictor = Predictor(place_model(model, options), config.precision, options)
    evaluation = evaluate(predictor, placed, task, options)
    report_not_finite({split_name: evaluation.not_finite})
    print_heading(f"{checkpoint.path} on {split.folder}")
    print_scores(evaluation, task)
    certainty = bootstrap.measure(evaluation)
    if config.save and options.processes.is_first:
        folder = evaluation_folder(config, checkpoint, split.digest) / split_name
        details = {**data, "split": split_name, "checkpoint": str(checkpoint.path)}
        details |= {"model": config.model, "precision": config.precision, **certainty}
        pictures = write_evaluation(folder, evaluation, task, details)
        if maps is not None:
            shown = maps.write(folder / "attention", evaluation, config.precision, options)
        with warning_if_unwritten(report := folder / "report.html"):
            certainty = written_certainty(folder, evaluation) or bootstrap.find(evaluation)
            sections = evaluation_sections(evaluation, task, split, certainty, pictures)
            if maps is not None:
                sections.append(attention_section(shown))
            sections += about_run(config, {split_name: split}, task, options.device, [checkpoint])
            write_report(report, f"{checkpoint.path} on {split.folder}", sections)
        print_line(f"\nResults are in {folder}")
    return evaluation
