"""Prepares a run from its configuration: the model, the task, and the options for loading."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from data.labels import SCALES
from data.layout import ALIGNMENT_NAMES, SPLITS, TEXT_LENGTH
from data.loading.options import LoaderOptions, evaluation_batch_size
from data.loading.split import INPUTS, Split
from data.manifest import read_manifest
from models.checkpoint import Checkpoint, read_checkpoint
from models.contract import Model
from models.native import accelerate
from models.registry import MODELS, build, restore
from models.text_encoder import text_encoder_of
from system.console import print_line
from system.cpus import choose_threads
from system.devices import pick_device
from system.errors import InputError, shown
from system.processes import SINGLE_PROCESS, Processes
from utils.run_config import DEFAULT_TASK, RunConfig
from utils.running.own_model import shares, try_to_predict, try_to_save, try_to_train
from utils.running.text_encoder import add_text_encoder, check_pieces, configure_encoder, in_pieces
from utils.tasks import LOSSES, TASKS, Task

_DEFAULT_WORKERS = {"cuda": 4, "cpu": 0}


def make_options(config: RunConfig, processes: Processes) -> LoaderOptions:
    """Return the options of a run on this machine, with the device that `config.device` names."""
    device = pick_device(processes.device(config.device))
    workers = _DEFAULT_WORKERS[device.type] if config.num_workers is None else config.num_workers
    verbose = processes.is_first and config.verbose
    native, compiles = config.native, config.compile
    return LoaderOptions(device, config.batch_size, workers, verbose, processes, native, compiles)


def open_training(
    config: RunConfig,
    names: Sequence[str] = SPLITS,
    resumed: Path | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> tuple[RunConfig, dict[str, Split], Model, Task]:
    """Return the configuration, the splits, the model and the task of a training.

    Opens only the splits in `names`, of which `train` is one. The returned configuration has the
    names of model and task. A training that is resumed takes its text encoder from the file
    `resumed`; the `processes` share its batches. Raises InputError when something cannot be read or
    built, or when splits, model and task do not fit each other.
    """
    splits = {name: Split(config.data_folder / name) for name in names}
    checkpoint = None if config.checkpoint is None else read_checkpoint(config.checkpoint)
    if checkpoint is not None and checkpoint.text_encoder is not None:
        splits = in_pieces(splits)
    config, model, task = _new_model(config, checkpoint, splits["train"])
    if config.model_name not in MODELS:
        _try_training(config, model, splits, task, processes)
    if config.finetune_bert is not None:
        model, splits = add_text_encoder(model, config, splits, resumed)
    configure_encoder(model, config)
    for name, split in splits.items():
        check_widths(model, split)
        if name != "train":  # its labels were checked with the task
            task.check_labels(split)
            _warn_of_other_lengths(split, splits["train"])
    return config, splits, model, task


def _try_training(
    config: RunConfig, model: Model, splits: Mapping[str, Split], task: Task, processes: Processes
) -> None:
    """Try a user's own model in all that a training does with it, which may raise InputError."""
    name, train, size = config.model_name, splits["train"], config.batch_size
    options, count = make_options(config, processes), processes.count
    try_to_train(name, model, train, task, size, count, config.accumulation_steps)
    if config.save:
        try_to_save(name, model)
    if not options.num_workers or options.device.type == "cuda":  # which holds most datasets
        size = evaluation_batch_size(size, train.shapes)
    scored = [split for key, split in splits.items() if key != "train"]
    if any(1 in shares(len(split), size, count) for split in scored):
        try_to_predict(name, model, train, size=1)


def _warn_of_other_lengths(split: Split, train: Split) -> None:
    """Warn if a split has more or fewer rows a segment than the training split.

    Models take any number of rows, but a file may have another alignment by mistake.
    """
    for kind, (rows, _), (expected, _) in zip(INPUTS[:2], split.shapes, train.shapes, strict=False):
        if rows != expected:
            warnings.warn(
                f"{split.folder}: {kind} has {rows} rows a segment, but {train.folder} has "
                f"{expected}; check that their files have the same alignment",
                stacklevel=3,
            )


def _new_model(
    config: RunConfig, checkpoint: Checkpoint | None, split: Split
) -> tuple[RunConfig, Model, Task]:
    """Return the model that a training on `split` starts from: a new one, or the checkpoint's."""
    torch.manual_seed(config.seed)
    if checkpoint is not None:
        if config.set:
            raise InputError("--set goes without --checkpoint, which has its model's settings.")
        return open_model(config, checkpoint, split)
    name = config.model_name
    config = replace(config, model=name, task=config.task_name)
    task = find_task(config.task_name, split.scores, config.loss)
    task.check_labels(split)
    model = build(name, config.set, split.widths, len(task.outputs))
    _try_model(name, model, split)
    return config, model, task


def open_model(
    config: RunConfig, checkpoint: Checkpoint, split: Split, is_labelled: bool = True
) -> tuple[RunConfig, Model, Task]:
    """Return the configuration with a checkpoint's model and task, the model, and the task.

    Unless the split `is_labelled`, the task has the scores of the checkpoint's training data.
    Raises InputError if model, task and split do not fit, or the configuration names others.
    """
    name, model = restore(checkpoint, config.model)
    trained_for = checkpoint.details.get("task", DEFAULT_TASK)
    if config.task not in (None, trained_for):
        raise InputError(
            f"{checkpoint.path} was trained for the task {trained_for}, but --task says "
            f"{config.task}; leave --task out."
        )
    config = replace(config, model=name, task=trained_for)
    scores = split.scores if is_labelled else scores_trained_on(checkpoint) or split.scores
    where = f"{checkpoint.path}: task {shown(trained_for)}"
    task = find_task(trained_for, scores, config.loss, where)
    if is_labelled:
        task.check_labels(split)
    if model.outputs != len(task.outputs):
        raise InputError(
            f"{checkpoint.path} has {model.outputs} outputs, but the task {task.name} has "
            f"{len(task.outputs)}; give the checkpoint that belongs to it."
        )
    check_widths(model, split)
    _warn_of_other_data(checkpoint, split, is_labelled)
    _try_model(name, model, split)
    return config, model, task


def _warn_of_other_data(checkpoint: Checkpoint, split: Split, is_labelled: bool) -> None:
    """Warn if a split has another alignment or other scores than a checkpoint's training data.

    Data without labels are not scored; they are mostly from a single pickle, which does not say
    how its rows are aligned.
    """
    data = checkpoint.details.get("dataset")
    # Checkpoints from before datasets had digests have both at their top level.
    source = data if isinstance(data, dict) else checkpoint.details
    manifest = read_manifest(split.folder.resolve().parent)
    alignment = manifest["made_from"].get("alignment") if manifest else None
    pairs = []
    if is_labelled or {alignment, str(source.get("alignment"))} <= set(ALIGNMENT_NAMES):
        pairs.append((source.get("alignment"), alignment))
    if is_labelled:
        pairs.append((source.get("scores"), split.scores))
    for trained_on, this in pairs:
        # In a damaged file, `trained_on` may have any type.
        if isinstance(trained_on, str) and this and trained_on != this:
            warnings.warn(
                f"{checkpoint.path} was trained on {trained_on} data, this is {this}", stacklevel=3
            )


def _try_model(name: str, model: Model, split: Split) -> None:
    """Try a user's own model, which may raise InputError; prints what any model leaves out."""
    if name not in MODELS:
        try_to_predict(name, model, split)
    if left_out := getattr(model.config, "left_out", []):
        print_line(f"{name} leaves out: {', '.join(left_out)}")


def scores_trained_on(checkpoint: Checkpoint) -> str | None:
    """Return the scores of a checkpoint's training data, a name in `SCALES`; None if not known."""
    data = checkpoint.details.get("dataset")
    scores = data.get("scores") if isinstance(data, dict) else None
    return scores if isinstance(scores, str) and scores in SCALES else None


def find_task(name: str, scores: str, loss: str | None = None, where: str | None = None) -> Task:
    """Return the task with the `scores` of a dataset (in `SCALES`) and a loss (in `LOSSES`).

    Without `loss`, it has its own. Raises InputError, which begins with `where` (default: the
    option), if there is no such task for the dataset.
    """
    where = where or f"--task {name}"
    if name not in TASKS:
        raise InputError(f"{where}: there is no such task, only {', '.join(TASKS)}.")
    if scores not in TASKS[name]:
        raise InputError(
            f"{where}: a dataset with the scores of {scores} has no labels for it; use one "
            f"with those of {', '.join(TASKS[name])}."
        )
    task = TASKS[name][scores]
    return task if loss is None else replace(task, loss=LOSSES[loss])


def check_widths(model: Model, split: Split) -> None:
    """Raise InputError unless the split's arrays have the widths that the model takes."""
    check_pieces(model, split)
    compare_widths(model, split.widths, str(split.folder))


def compare_widths(model: Model, widths: Mapping[str, int], where: str) -> None:
    """Raise InputError, which begins with `where`, unless the model takes these widths."""
    for kind, width in widths.items():
        expected = model.widths[kind]
        if width != expected:
            raise InputError(
                f"{where}: {kind} is {width} wide, but the model takes {expected}; use the "
                "checkpoint that belongs to this data, or prepare the data as for the checkpoint "
                "(text: with the same --bert)."
            )


def place_model(model: Model, options: LoaderOptions) -> Model:
    """Return the model on the options' device, with compiled encoders if the options ask for them.

    On a CPU, also sets the number of PyTorch's threads.
    """
    threads = None
    if options.device.type == "cpu":
        values = sum(model.widths.values())
        if (encoder := text_encoder_of(model)) is not None:  # it computes whole texts at once
            values += TEXT_LENGTH * encoder.config.hidden_size
        threads = choose_threads(options.share_size * values)
    if options.native and not options.compiles:
        accelerate(model, threads, options.device)
    return model.to(options.device)
