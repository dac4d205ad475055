"""Which options of `main_msaf.py` go with which; what does not fit ends in one line."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import fields
from typing import Any

from system.console import print_warning
from utils.run_config import OF_A_MACHINE, OF_A_TEXT_ENCODER, RunConfig

# The settings of a run that may be others where a worker is.
OF_A_WORKER = ("datadir", "resultdir", "log_interval", "verbose", *OF_A_MACHINE)
BY_ID = True  # --attention without a number
# What nothing but a training looks at, beside what OF_A_TEXT_ENCODER names.
_OF_A_TRAINING = (
    *("loss", "lr", "epochs", "weight_decay", "grad_clip", "patience", "accumulation_steps"),
    *("scheduler", "plateau_factor", "plateau_patience", "save_every"),
)
_OF_TRAININGS = ("train", "compare", "ablate", "tune", "worker")
_OTHER_WORK = (*_OF_TRAININGS, "table", "dry_run")
_OF_SCORES = ("bootstrap", "against")
_EXCLUDES = {
    "resume": ("checkpoint", "overwrite"),
    "table": ("dry_run", "config"),
    "split": (*_OF_TRAININGS, "table", "predict", "export"),
    "worker": ("dry_run", "seeds", "config"),
    "predict": (*_OTHER_WORK, "export", *_OF_SCORES),
    "export": (*_OTHER_WORK, *_OF_SCORES),
    "robustness": (*_OTHER_WORK, "predict", "export", *_OF_SCORES),
    "attention": (*_OTHER_WORK, "predict", "export", "robustness"),
}
_GOES_WITH = {
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
    """End the program where options do not go together; `config` is what they come to."""
    if not any(arguments[name] for name in _OTHER_WORK) and config.checkpoint is None:
        parser.error("give --train to train, or --checkpoint FILE to evaluate")
    for this, excludes in _EXCLUDES.items():
        for other in excludes:
            if arguments[this] and arguments.get(other):
                parser.error(f"--{this} and --{other} exclude each other")
    if arguments["bert"] and not arguments["predict"]:
        parser.error("--bert goes with --predict; dataset_prep.py prepares data with it")
    if arguments.get("set") and config.checkpoint is not None:
        parser.error("--set goes without --checkpoint, whose model has its settings")
    writing = ["predict", "export", "table", "attention", "overwrite", "pdf"]
    if arguments["train"]:  # or it is one that nothing looks at
        writing.append("save_every")
    for name in writing:
        if arguments.get(name) and not config.save:
            parser.error(f"--{name} writes files: leave --no_save out")
    _check_training(parser, arguments)
    _check_learning(parser, arguments, config)
    _check_attention(parser, arguments)


def _check_training(parser: argparse.ArgumentParser, arguments: dict[str, Any]) -> None:
    for name, works in _GOES_WITH.items():
        if arguments[name] and not any(arguments[work] for work in works):
            shown = [f"--{work}" for work in works if work != "dry_run"]
            ways = " or ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
            parser.error(f"--{name} goes with {ways}")
    if arguments["seeds"] and "seed" in arguments and not arguments["tune"]:
        parser.error("--seed and --seeds exclude each other")
    for seed, times in Counter(arguments["seeds"] or ()).items():
        if times > 1:
            parser.error(f"--seeds: {seed} is given {times} times; give each once")
    given = [field for field in fields(RunConfig) if field.name in arguments]
    for field in given if arguments["worker"] else ():
        if field.name not in OF_A_WORKER:
            option = f"--no_{field.name}" if field.default is True else f"--{field.name}"
            parser.error(
                f"--worker takes its settings from {arguments['worker']}: leave {option} out"
            )
    if arguments["resume"] not in (None, "auto") and arguments["seeds"]:
        parser.error("--resume FILE goes on with one training; with --seeds give --resume auto")


def _check_learning(
    parser: argparse.ArgumentParser, arguments: dict[str, Any], config: RunConfig
) -> None:
    learns = any(arguments[work] for work in ("train", "compare", "ablate", "tune"))
    learns = learns or (arguments["dry_run"] and config.checkpoint is None)  # or it evaluates
    for name in ("finetune_bert", *OF_A_TEXT_ENCODER):
        if name in arguments and not learns:
            parser.error(f"--{name} goes with --train, --compare, --ablate or --tune")
        if name in arguments and config.finetune_bert is None and config.checkpoint is None:
            parser.error(f"--{name} goes with --finetune_bert")
    unread = [name for name in _OF_A_TRAINING if name in arguments and not learns]
    if arguments["train"] and config.scheduler != "plateau":
        unread += [name for name in ("plateau_factor", "plateau_patience") if name in arguments]
    if arguments["predict"] and "alignment" in arguments:
        unread.append("alignment")
    if unread:  # harmless, as in a script that gives every command the same
        print_warning(f"nothing here looks at --{', --'.join(unread)}")


def _check_attention(parser: argparse.ArgumentParser, arguments: dict[str, Any]) -> None:
    wanted, ids = arguments["attention"], arguments["ids"]
    if wanted is BY_ID and not ids:
        parser.error("--attention: give it a number of segments, or --ids")
    if wanted and wanted is not BY_ID and ids and wanted != len(ids):
        parser.error(f"--attention {wanted}, but --ids names {len(ids)}: leave the number out")
