"""Checks which options of `main_msaf.py` can be combined; ends with one line where they cannot."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import fields
from typing import Any

from system.console import print_warning
from utils.run_config import (
    MACHINE_SETTINGS,
    TEXT_ENCODER_SETTINGS,
    TRAINING_SETTINGS,
    RunConfig,
)

# The settings of a run that a worker may set for its own machine.
WORKER_SETTINGS = ("datadir", "resultdir", "log_interval", "verbose", *MACHINE_SETTINGS)
BY_ID = True  # --attention without a number
# All settings of a run that these actions use.
_USED_BY = {"export": ("checkpoint", "model", "save"), "table": ("resultdir", "save", "pdf")}
_TRAINING_ACTIONS = ("train", "compare", "ablate", "tune", "worker")
_ACTIONS = (*_TRAINING_ACTIONS, "table", "dry_run")  # those that need no --checkpoint
_SCORE_OPTIONS = ("bootstrap", "against")
_EXCLUDES = {
    "resume": ("overwrite",),
    "table": ("dry_run", "config"),
    "split": (*_TRAINING_ACTIONS, "table", "predict", "export"),
    "worker": ("dry_run", "seeds", "config"),
    "predict": (*_ACTIONS, "export", *_SCORE_OPTIONS),
    "export": (*_ACTIONS, *_SCORE_OPTIONS),
    "robustness": (*_ACTIONS, "predict", "export", *_SCORE_OPTIONS),
    "attention": (*_ACTIONS, "predict", "export", "robustness"),
}
_NEEDS_ONE_OF = {
    "resume": ("train",),
    "beside": ("robustness",),
    "ids": ("attention",),
    "seeds": ("train", "compare", "ablate", "tune", "dry_run"),
    "overwrite": ("train", "compare", "ablate", "dry_run"),
    "space": ("tune",),
    "storage": ("compare", "ablate", "tune", "worker"),
}


def check_options(
    parser: argparse.ArgumentParser, arguments: dict[str, Any], config: RunConfig
) -> None:
    """End the program where options cannot be combined; `config` is the configuration they give."""
    if not any(arguments[name] for name in _ACTIONS) and config.checkpoint is None:
        parser.error("give --train to train, or --checkpoint FILE to evaluate")
    for name, excluded in _EXCLUDES.items():
        for other in excluded:
            if arguments[name] and arguments.get(other):
                parser.error(f"--{name} and --{other} exclude each other")
    if arguments["bert"] and not arguments["predict"]:
        parser.error("--bert goes with --predict; to prepare data with it, run dataset_prep.py")
    if arguments.get("set") and config.checkpoint is not None:
        parser.error("--set goes without --checkpoint, which has its model's settings")
    writing_options = ["predict", "export", "table", "attention", "overwrite", "pdf"]
    if arguments["train"]:  # elsewhere --save_every has no effect
        writing_options.append("save_every")
    for name in writing_options:
        if arguments.get(name) and not config.save:
            parser.error(f"--{name} writes files: leave --no_save out")
    _check_training(parser, arguments, config)
    _check_learning(parser, arguments, config)
    _check_attention(parser, arguments)


def _dry_run_trains(arguments: dict[str, Any], config: RunConfig) -> bool:
    """Tell whether --dry_run stands for a training where no other action is given."""
    return arguments["dry_run"] and config.checkpoint is None  # or it evaluates


def _check_training(
    parser: argparse.ArgumentParser, arguments: dict[str, Any], config: RunConfig
) -> None:
    given = arguments | {"dry_run": _dry_run_trains(arguments, config)}
    for name, actions in _NEEDS_ONE_OF.items():
        if arguments[name] and not any(given[action] for action in actions):
            *first, last = [f"--{action}" for action in actions if action != "dry_run"]
            expected = f"{', '.join(first)} or {last}" if first else last
            parser.error(f"--{name} goes with {expected}")
    if arguments["seeds"] and "seed" in arguments and not arguments["tune"]:
        parser.error("--seed and --seeds exclude each other")
    for seed, times in Counter(arguments["seeds"] or ()).items():
        if times > 1:
            parser.error(f"--seeds: {seed} is given {times} times; give each once")
    for field in fields(RunConfig) if arguments["worker"] else ():
        if field.name in arguments and field.name not in WORKER_SETTINGS:
            parser.error(
                f"--worker takes its settings from {arguments['worker']}: leave "
                f"{_option(field.name)} out"
            )
    if arguments["resume"] not in (None, "auto") and arguments["seeds"]:
        parser.error("--resume FILE resumes one training; with --seeds give --resume auto")


def _check_learning(
    parser: argparse.ArgumentParser, arguments: dict[str, Any], config: RunConfig
) -> None:
    trains = any(arguments[action] for action in ("train", "compare", "ablate", "tune"))
    trains = trains or _dry_run_trains(arguments, config)
    for name in ("finetune_bert", *TEXT_ENCODER_SETTINGS):
        if name in arguments and not trains:
            parser.error(f"--{name} goes with --train, --compare, --ablate or --tune")
        if name in arguments and config.finetune_bert is None and config.checkpoint is None:
            parser.error(f"--{name} goes with --finetune_bert")
    if unused := _unused_settings(arguments, config, trains):
        # Harmless: a script may give every command the same options.
        print_warning(f"options without effect here: {', '.join(map(_option, unused))}")


def _unused_settings(arguments: dict[str, Any], config: RunConfig, trains: bool) -> list[str]:
    """Return the names of the given settings that have no effect on what the command does."""
    given = arguments.keys() - (() if arguments["pdf"] else ("pdf",))
    for action, used in _USED_BY.items():
        if arguments[action]:
            names = [*(field.name for field in fields(RunConfig)), "pdf"]
            return [name for name in names if name in given and name not in used]
    names = [] if trains else [*TRAINING_SETTINGS]
    if arguments["train"] and config.scheduler != "plateau":
        names += ["plateau_factor", "plateau_patience"]
    if arguments["predict"]:
        names += ["datadir", "alignment", "pdf"]
    return [name for name in names if name in given]


def _option(name: str) -> str:
    return f"--no_{name}" if getattr(RunConfig, name, None) is True else f"--{name}"


def _check_attention(parser: argparse.ArgumentParser, arguments: dict[str, Any]) -> None:
    count, ids = arguments["attention"], arguments["ids"]
    if count is BY_ID and not ids:
        parser.error("--attention: give it a number of segments, or --ids")
    if count and count is not BY_ID and ids and count != len(ids):
        parser.error(f"--attention {count}, but --ids names {len(ids)}: leave the number out")
