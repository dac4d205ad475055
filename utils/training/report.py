"""A training as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.loading.split import Split
from utils.reports.about import about_run
from utils.reports.costs import count_parameters
from utils.reports.evaluation import Evaluation
from utils.reports.evaluation_report import evaluation_sections
from utils.reports.html import Picture, Section, Table, write_report
from utils.training.trainer import Trainer

CURVES = "curves.png"


def write_training_report(
    folder: Path,
    trainer: Trainer,
    splits: Mapping[str, Split],
    evaluation: Evaluation,
    certainty: dict[str, Any],
    pictures: Sequence[Picture],
) -> None:
    """Write report.html into `folder`, which has the curves: they, and the test evaluation.

    `certainty` and `pictures` are as `evaluation_sections` takes them.
    """
    config, task, best = trainer.config, trainer.task, trainer.best
    chosen_by = task.chosen_by.name
    text = (
        f"{config.model} with {count_parameters(trainer.model):,} parameters, trained for "
        f"{len(trainer.epochs)} epochs; epoch {best.number} has the best validation {chosen_by}. "
        "The scores of train are those on the way, while weights change and with dropout."
    )
    header = [f"epoch {best.number}", *(measure.name for measure in task.measures)]
    rows = [
        [name, *(measure.text(scores[measure.key]) for measure in task.measures)]
        for name, scores in best.scores.items()
    ]
    curves = Picture(folder / CURVES, f"Loss and {chosen_by} by epoch", is_wide=True)
    sections = [
        Section("Training", [text, curves, Table(header, rows)]),
        *evaluation_sections(evaluation, task, splits["test"], certainty, pictures),
        *about_run(config, splits, task, trainer.options.device),
    ]
    title = f"{config.model} trained in {config.checkpointdir}"
    write_report(folder / "report.html", title, sections)
