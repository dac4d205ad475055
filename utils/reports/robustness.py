"""How the scores of checkpoints change as a modality goes missing, gets noisy, or comes late."""

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
from models.checkpoint import read_checkpoint
from models.contract import Model
from models.registry import MODELS
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
    """A checkpoint, and the data that it is scored on."""

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
        """What tells it from others."""
        return f"{self.model} ({self.checkpoint})"


def measure_robustness(
    config: RunConfig, split_name: str, options: LoaderOptions, beside: Sequence[Path]
) -> list[Robustness]:
    """Score `config.checkpoint`, and those beside it, on a split disturbed in every way.

    Prints what a missing modality costs, and writes robustness.csv, a picture and report.html.
    Raises InputError when a checkpoint cannot be read, does not fit, or is of another task.
    """
    split = Split(config.data_folder / split_name)
    with tempfile.TemporaryDirectory(prefix="nhfnet-") as encoded:
        opened = _open(config, split, beside, options, Path(encoded))
        task = opened[0].task
        if config.save:
            config.resultdir.mkdir(parents=True, exist_ok=True)  # told before the work if it cannot
        rates = shift_rates(split)
        shifts = ", ".join(f"{rate:.4g} rows of {name}" for name, rate in rates.items())
        print_line(f"To shift them, a second is taken as {shifts}")
        found = [
            Robustness(
                one.config.needed_checkpoint, one.config.model_name, _scores(one, rates, options)
            )
            for one in opened
        ]
    print_heading(f"{task.chosen_by.name} on {split.folder}, without a modality")
    print_line(format_table(*_summary(found, task)))
    if config.save and options.processes.is_first:
        folder = result_folder(config.resultdir, config.needed_checkpoint, split.digest, beside)
        folder /= split_name
        picture = _write(folder, found, task, rates)
        with warning_if_unwritten(report := folder / "report.html"):
            measure = task.chosen_by.name
            sections = [
                Section(f"{measure} without a modality", [Table(*_summary(found, task))]),
                Section(f"{measure} by disturbance", [picture]),
                *about_run(config, {split_name: split}, task, options.device),
            ]
            write_report(report, f"Robustness on {split.folder}", sections)
        print_line(f"\nResults are in {folder}")
    return found


def _open(
    config: RunConfig, split: Split, beside: Sequence[Path], options: LoaderOptions, folder: Path
) -> list[_Opened]:
    """Open each checkpoint; the task of all is the same.

    Of one with a text encoder, what is disturbed is the text that the model behind it gets, which
    is written into `folder`.
    """
    opened: list[_Opened] = []
    for path in dict.fromkeys((config.needed_checkpoint, *beside)):
        checkpoint = read_checkpoint(path)
        # --model names the first one's, and that of others that need a name.
        name = None if opened and checkpoint.model in MODELS else config.model
        own = split if checkpoint.text_encoder is None else Split(split.folder, takes_pieces=True)
        its, model, task = open_model(replace(config, checkpoint=path, model=name), checkpoint, own)
        if isinstance(model, WithTextEncoder):
            place = folder / f"{len(opened)}.npy"
            own, model = encode_split(own, model.text_encoder, place, options), model.model
        opened.append(_Opened(its, model, task, own))
        first, last = opened[0].config.task, opened[-1].config.task
        if first != last:
            raise InputError(
                f"{path} was trained for the task {last}, but {config.checkpoint} for {first}; "
                "put those of one task side by side."
            )
    return opened


def _scores(
    opened: _Opened, rates: Mapping[str, float], options: LoaderOptions
) -> dict[Perturbation, Scores]:
    """Return the scores by perturbation; where several leave the same data, it is scored once."""
    config, model, task, split = opened
    options = evaluation_options(options, split)
    predictor = Predictor(place_model(model, options), config.precision, options)
    lengths = {name: shape[0] for name, shape in zip(INPUTS, split.shapes, strict=True)}

    @cache
    def score(how: Perturbation) -> Scores:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without text, predictions may be all the same
            disturbed = PerturbedSplit(split, how, config.seed)
            return evaluate(predictor, disturbed, task, replace(options, verbose=False)).scores

    scores = {}
    bar = progress(perturbations(), desc="Disturbing", unit="score", disable=not options.verbose)
    for perturbation in bar:
        modality = perturbation.modality
        same = effect(perturbation, rates.get(modality, 0), lengths[modality])
        if modality in getattr(model.config, "left_out", []):
            same = UNDISTURBED
        scores[perturbation] = score(same)
    return scores


def _summary(found: Sequence[Robustness], task: Task) -> tuple[list[str], list[list[str]]]:
    """Lay out what chooses the epoch: undisturbed, and without each modality."""
    shown = [UNDISTURBED, *(Perturbation(name, "missing_random", 100) for name in MODALITIES)]
    measure = task.chosen_by
    rows = [
        [one.name, *(measure.text(one.scores[how][measure.key]) for how in shown)] for one in found
    ]
    return ["checkpoint", "undisturbed", *(f"without {name}" for name in MODALITIES)], rows


def _write(
    folder: Path, found: Sequence[Robustness], task: Task, rates: Mapping[str, float]
) -> Picture:
    """Write robustness.csv and the picture, which is returned."""
    from utils.reports.robustness_plot import plot_robustness  # matplotlib is slow to import

    keys = [measure.key for measure in task.measures]
    lines: list[list[Any]] = [["checkpoint", "model", "modality", "kind", "level", "rows", *keys]]
    for one in found:
        for how, scores in one.scores.items():
            is_shift = how.kind == "shift"
            rows = round(how.level * rates[how.modality]) if is_shift else ""
            about = (one.checkpoint, one.model, how.modality, how.kind, how.level, rows)
            lines.append([*about, *(scores[key] for key in keys)])
    write_csv(folder / "robustness.csv", lines)
    measure = task.chosen_by
    models = [one.model for one in found]
    names = models if len(set(models)) == len(models) else [one.name for one in found]
    curves = {
        name: {how: scores[measure.key] for how, scores in one.scores.items()}
        for name, one in zip(names, found, strict=True)
    }
    meaning = f"{measure.name} by modality and disturbance"
    picture = Picture(folder / "robustness.png", meaning, is_wide=True)
    plot_robustness(picture.path, curves, measure.name)
    return picture
