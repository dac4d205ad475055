"""Prints what a training or an evaluation would do, and what it would cost, without doing it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from data.loading.on_device import has_room
from data.loading.options import LoaderOptions
from data.loading.split import Split
from models.checkpoint import read_checkpoint
from models.contract import Model
from models.text_encoder import text_encoder_of
from system.console import print_line
from utils.reports.about import describe_data
from utils.reports.bootstrap import Bootstrap
from utils.reports.costs import (
    count_parameters,
    evaluation_memory,
    model_table,
    training_memory,
)
from utils.reports.evaluation import evaluation_options
from utils.reports.results import evaluation_folder
from utils.run_config import RunConfig
from utils.running.execution import count_parts, fewest_rows
from utils.running.setup import open_model, open_training
from utils.tasks import Task
from utils.training.run_folder import check_run_folder, file_to_resume
from utils.training.trainer import Trainer

_VALUES_PER_WEIGHT = 3  # in an epoch's checkpoint: the weight and Adam's two moments


def dry_run_training(
    config: RunConfig,
    options: LoaderOptions,
    seeds: Sequence[int] | None = None,
    resume: str | None = None,
    overwrite: bool = False,
) -> None:
    """Print what a training, or one for each seed, would read, do and write; changes no file.

    Raises InputError where the training would.
    """
    runs = [config.for_seed(seed) for seed in seeds or ()] or [config]
    folder = config.checkpointdir
    for run in runs:
        config, splits, model, task = _open(run, options, resume, overwrite)
    steps = math.ceil(len(splits["train"]) / config.batch_size)
    weights_size = 4 * sum(parameter.numel() for parameter in model.parameters())  # bytes
    # With a text encoder, an epoch's checkpoint leaves the moments out.
    epoch_size = weights_size * (_VALUES_PER_WEIGHT if text_encoder_of(model) is None else 1)
    # The current and the best weights, and two moments of each weight that is trained.
    last_size = 2 * weights_size + 2 * 4 * count_parameters(model)
    facts = [
        ("train", f"{config.model} for {task.name}, on {options.device}"),
        *((name, f"{len(split):,} segments of {split.folder}") for name, split in splits.items()),
        ("steps", f"{config.epochs} epochs of {steps:,} steps of {config.batch_size} segments"),
    ]
    if seeds:
        facts.append(("seeds", f"all this in {', '.join(run.checkpointdir.name for run in runs)}"))
    if config.save:
        facts += [
            ("write", f"{folder}: a checkpoint of {_megabytes(epoch_size)} an epoch"),
            ("", f"and one of {_megabytes(last_size)} to resume from"),
            ("", f"{config.resultdir}: the test scores of the best epoch"),
        ]
    batch_size = min(config.batch_size, len(splits["train"]))
    parts = count_parts(batch_size, config.accumulation_steps, fewest_rows(model))
    part_size = math.ceil(batch_size / parts)
    inputs = splits["train"][range(part_size)].inputs
    _print_plan(facts, model, splits["train"], training_memory(model, inputs, config.precision))


def _open(
    config: RunConfig, options: LoaderOptions, resume: str | None, overwrite: bool
) -> tuple[RunConfig, dict[str, Split], Model, Task]:
    """Return what `open_training` returns, after checking that the run can use its files."""
    resumed = file_to_resume(config, resume)
    processes = options.processes
    config, splits, model, task = open_training(config, resumed=resumed, processes=processes)
    Bootstrap(config, splits["test"], task)
    if config.save:
        check_run_folder(config, resume, resumed, overwrite)
    if resumed is not None:
        cpu_options = replace(options, device=torch.device("cpu"))
        data = describe_data(config.data_folder, splits)
        Trainer(model, splits, task, config, cpu_options, data).resume(resumed)
    return config, splits, model, task


def dry_run_evaluation(config: RunConfig, split_name: str, options: LoaderOptions) -> None:
    """Print what an evaluation would read, do and write; changes no file.

    Raises InputError where the evaluation would.
    """
    checkpoint = read_checkpoint(config.needed_checkpoint)
    has_text_encoder = checkpoint.text_encoder is not None
    split = Split(config.data_folder / split_name, takes_pieces=has_text_encoder)
    config, model, task = open_model(config, checkpoint, split)
    Bootstrap(config, split, task)
    facts = [
        ("evaluate", f"{checkpoint.path}: {config.model} for {task.name}, on {options.device}"),
        (split_name, f"{len(split):,} segments of {split.folder}"),
    ]
    if config.save:
        folder = evaluation_folder(config, checkpoint, split.digest)
        facts.append(("write", f"{folder / split_name}"))
    if has_room([split], options):  # a split held on the device needs no loading processes
        options = replace(options, num_workers=0)
    batch_size = min(evaluation_options(options, split).batch_size, len(split))
    inputs = split[range(batch_size)].inputs
    _print_plan(facts, model, split, evaluation_memory(model, inputs))


def _print_plan(facts: list[tuple[str, str]], model: nn.Module, split: Split, memory: str) -> None:
    for name, fact in facts:
        print_line(f"{name:<9} {fact}")
    print_line(f"\n{model_table(model, split[[0]].inputs)}\n\n{memory}")


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.1f} MB"
