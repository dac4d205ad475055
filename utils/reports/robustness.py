"""Robustness: scores of checkpoints when a modality is missing, noisy, or shifted in time."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from data.loading.options import LoaderOptions
from data.loading.split import INPUTS, Split
from models.checkpoint import Checkpoint, read_checkpoint
from models.contract import Model
from models.registry import MODELS, stand_in
from models.text_encoder import WithTextEncoder
from system.console import format_table, print_heading, print_line
from system.errors import InputError
from system.files import write_csv
from system.progress import progress
from utils.reports.about import about_run
from utils.reports.evaluation import Predictor, evaluate, evaluation_options
from utils.reports.html import Picture, Section, Table, warning_if_unwritten, write_report
from utils.reports.perturbation import (
    MODALITIES,
    UNDISTURBED,
    Perturbation,
    PerturbedSplit,
    effect,
    encode_split,
    perturbations,
    shift_rates,
)
from utils.reports.results import result_folder
from utils.run_config import RunConfig
from utils.running.setup import open_model, place_model
from utils.tasks import Scores, Task


class _Opened(NamedTuple):
    """An opened checkpoint, and the data on which it is scored."""

    checkpoint: Checkpoint
    config: RunConfig
    model: Model
    task: Task
    split: Split


@dataclass(frozen=True)
class Robustness:
    """A checkpoint's scores by perturbation."""

    checkpoint: Path
    model: str
    scores: Mapping[Perturbation, Scores]

    @property
    def name(self) -> str:
        """A name that is unique among the checkpoints."""
        return f"{self.model} ({self.checkpoint})"


def measure_robustness(
    config: RunConfig, split_name: str, options: LoaderOptions, others: Sequence[Path]
) -> list[Robustness]:
    """Score `config.checkpoint` and the other checkpoints under every perturbation of a split.

    Prints the scores without each modality; writes robustness.csv, a picture and report.html.
    Raises InputError when a checkpoint cannot be read, does not fit, or is of another task.
    """
    split = Split(config.data_folder / split_name)
    with tempfile.TemporaryDirectory(prefix="nhfnet-") as temporary:
        opened = _open(config, split, others, options, Path(temporary))
        task = opened[0].task
        if config.save:
            config.resultdir.mkdir(parents=True, exist_ok=True)  # raises before the work
        rates = shift_rates(split)
        shifts = ", ".join(f"{rate:.4g} rows of {name}" for name, rate in rates.items())
        print_line(f"For shifts, one second is taken as {shifts}")
        results = [_measure(each, rates, options) for each in opened]
    print_heading(f"{task.chosen_by.name} on {split.folder}, without a modality")
    print_line(format_table(*_summary(results, task)))
    if config.save and options.processes.is_first:
        own = [stand_in(each.checkpoint, each.config.model) for each in opened]
        about = config.resultdir, config.needed_checkpoint, split.digest, config.precision
        folder = result_folder(*about, others, next(filter(None, own), None))
        folder = folder / "robustness" / split_name  # an evaluation has a report.html too
        picture = _write(folder, results, task, rates)
        with warning_if_unwritten(report := folder / "report.html"):
            measure, checkpoints = task.chosen_by.name, [each.checkpoint for each in opened]
            sections = [
                Section(f"{measure} without a modality", [Table(*_summary(results, task))]),
                Section(f"{measure} by disturbance", [picture]),
                *about_run(config, {split_name: split}, task, options.device, checkpoints),
            ]
            write_report(report, f"Robustness on {split.folder}", sections)
        print_line(f"\nResults are in {folder}")
    return results


def _open(
    config: RunConfig, split: Split, others: Sequence[Path], options: LoaderOptions, folder: Path
) -> list[_Opened]:
    """Open each checkpoint; raise InputError when their tasks differ.

    For a checkpoint with a text encoder, the encoded text is disturbed, which is written into
    `folder`.
    """
    opened: list[_Opened] = []
    for path in dict.fromkeys((config.needed_checkpoint, *others)):
        checkpoint = read_checkpoint(path)
        # --model is for the first checkpoint, and for others whose model is not a registered one.
        name = None if opened and checkpoint.model in MODELS else config.model
        data = split if checkpoint.text_encoder is None else Split(split.folder, takes_pieces=True)
        run = replace(config, checkpoint=path, model=name)
        run, model, task = open_model(run, checkpoint, data)
        if isinstance(model, WithTextEncoder):
            file = folder / f"{len(opened)}.npy"
            data, model = encode_split(data, model.text_encoder, file, options), model.model
        opened.append(_Opened(checkpoint, run, model, task, data))
        first, last = opened[0].config.task, opened[-1].config.task
        if first != last:
            raise InputError(
                f"{path} was trained for the task {last}, but {config.checkpoint} for {first}; "
                "give checkpoints of one task."
            )
    return opened


def _measure(opened: _Opened, rates: Mapping[str, float], options: LoaderOptions) -> Robustness:
    """Score a checkpoint under every perturbation; those with the same effect are scored once."""
    _, config, model, task, split = opened
    options = evaluation_options(options, split)
    predictor = Predictor(place_model(model, options), config.precision, options)
    lengths = {name: shape[0] for name, shape in zip(INPUTS, split.shapes, strict=True)}

    @cache
    def score(perturbation: Perturbation) -> Scores:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without text, all predictions may be the same
            disturbed = PerturbedSplit(split, perturbation, config.seed)
            return evaluate(predictor, disturbed, task, replace(options, verbose=False)).scores

    scores = {}
    bar = progress(perturbations(), desc="Disturbing", unit="score", disable=not options.verbose)
    for perturbation in bar:
        modality = perturbation.modality
        equivalent = effect(perturbation, rates.get(modality, 0), lengths[modality])
        if modality in getattr(model.config, "left_out", []):
            equivalent = UNDISTURBED
        scores[perturbation] = score(equivalent)
    return Robustness(config.needed_checkpoint, config.model_name, scores)


def _summary(results: Sequence[Robustness], task: Task) -> tuple[list[str], list[list[str]]]:
    """Return a table of the task's main measure, undisturbed and without each modality."""
    columns = [UNDISTURBED, *(Perturbation(name, "missing_random", 100) for name in MODALITIES)]
    measure = task.chosen_by
    rows = [
        [each.name, *(measure.text(each.scores[column][measure.key]) for column in columns)]
        for each in results
    ]
    return ["checkpoint", "undisturbed", *(f"without {name}" for name in MODALITIES)], rows


def _write(
    folder: Path, results: Sequence[Robustness], task: Task, rates: Mapping[str, float]
) -> Picture:
    """Write robustness.csv and the picture; return the picture."""
    from utils.reports.plots import plot_robustness  # matplotlib is slow to import

    keys = [measure.key for measure in task.measures]
    lines: list[list[Any]] = [["checkpoint", "model", "modality", "kind", "level", "rows", *keys]]
    for each in results:
        for perturbation, scores in each.scores.items():
            modality, level = perturbation.modality, perturbation.level
            rows = round(level * rates[modality]) if perturbation.kind == "shift" else ""
            facts = [each.checkpoint, each.model, modality, perturbation.kind, level, rows]
            lines.append([*facts, *(scores[key] for key in keys)])
    write_csv(folder / "robustness.csv", lines)
    measure = task.chosen_by
    models = [each.model for each in results]
    names = models if len(set(models)) == len(models) else [each.name for each in results]
    curves = {
        name: {perturbation: scores[measure.key] for perturbation, scores in each.scores.items()}
        for name, each in zip(names, results, strict=True)
    }
    meaning = f"{measure.name} by modality and disturbance"
    picture = Picture(folder / "robustness.png", meaning, is_wide=True)
    plot_robustness(picture.path, curves, measure.name)
    return picture
