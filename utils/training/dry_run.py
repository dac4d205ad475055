"""What a training or an evaluation would do, and what it would cost, without doing it."""

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
from utils.reports.results import result_folder
from utils.run_config import RunConfig
from utils.running.setup import open_model, open_training
from utils.tasks import Task
from utils.training.run_folder import file_to_resume, refuse_other_run
from utils.training.trainer import Trainer

_STATES = 3  # of a weight in a checkpoint: itself and Adam's two moments; without, itself


def dry_run_training(
    config: RunConfig,
    options: LoaderOptions,
    seeds: Sequence[int] | None = None,
    resume: str | None = None,
    overwrite: bool = False,
) -> None:
    """Print what a training, or one a seed, would read, do and write; touches nothing.

    Raises InputError where the training would.
    """
    runs = [config.for_seed(seed) for seed in seeds or ()] or [config]
    folder = config.checkpointdir
    for run in runs:
        config, splits, model, task = _open(run, options, resume, overwrite)
    steps = math.ceil(len(splits["train"]) / config.batch_size)
    states = _STATES if text_encoder_of(model) is None else 1
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    # Its weights and the best ones, and two moments of each that learns.
    last = 2 * size + 2 * 4 * count_parameters(model)
    facts = [
        ("train", f"{config.model} for {task.name}, on {options.device}"),
        *((name, f"{len(split):,} segments of {split.folder}") for name, split in splits.items()),
        ("steps", f"{config.epochs} epochs of {steps:,} steps of {config.batch_size} segments"),
    ]
    if seeds:
        facts.append(("seeds", f"all this in {', '.join(one.checkpointdir.name for one in runs)}"))
    if config.save:
        facts += [
            (
                "write",
                f"{folder}: a checkpoint of {_megabytes(states * size)} an epoch",
            ),
            ("", f"and one of {_megabytes(last)} to go on from"),
            ("", f"{config.resultdir}: the test scores of the best"),
        ]
    batch = min(config.batch_size, len(splits["train"]))
    at_once = math.ceil(batch / config.accumulation_steps)
    inputs = splits["train"][range(at_once)].inputs
    _print_plan(facts, model, splits["train"], training_memory(model, inputs, config.precision))


def _open(
    config: RunConfig, options: LoaderOptions, resume: str | None, overwrite: bool
) -> tuple[RunConfig, dict[str, Split], Model, Task]:
    """Return what `open_training` does, once the run is seen to fit its folder and its files."""
    resumed = file_to_resume(resume, config.checkpointdir)
    config, splits, model, task = open_training(config, resumed=resumed)
    Bootstrap(config, splits["test"], task)
    if config.save:
        refuse_other_run(config.checkpointdir, resume, overwrite)
    if resumed is not None:
        here = replace(options, device=torch.device("cpu"))
        data = describe_data(config.data_folder, splits)
        Trainer(model, splits, task, config, here, data).resume(resumed)
    return config, splits, model, task


def dry_run_evaluation(config: RunConfig, split_name: str, options: LoaderOptions) -> None:
    """Print what an evaluation would read, do and write; touches nothing."""
    checkpoint = read_checkpoint(config.needed_checkpoint)
    in_pieces = checkpoint.text_encoder is not None
    split = Split(config.data_folder / split_name, takes_pieces=in_pieces)
    config, model, task = open_model(config, checkpoint, split)
    facts = [
        ("evaluate", f"{checkpoint.path}: {config.model} for {task.name}, on {options.device}"),
        (split_name, f"{len(split):,} segments of {split.folder}"),
    ]
    if config.save:
        folder = result_folder(config.resultdir, checkpoint.path, split.digest)
        facts.append(("write", f"{folder / split_name}"))
    if has_room([split], options):  # on the device nothing is loaded by other processes
        options = replace(options, num_workers=0)
    at_once = min(evaluation_options(options, split).batch_size, len(split))
    inputs = split[range(at_once)].inputs
    _print_plan(facts, model, split, evaluation_memory(model, inputs))


def _print_plan(facts: list[tuple[str, str]], model: nn.Module, split: Split, memory: str) -> None:
    for name, fact in facts:
        print_line(f"{name:<9} {fact}")
    print_line(f"\n{model_table(model, split[[0]].inputs)}\n\n{memory}")


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.1f} MB"
