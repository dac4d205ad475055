"""Which options of `main_msaf.py` go with which; what does not fit ends in one line."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import fields
from typing import Any

from utils.run_config import OF_A_MACHINE, OF_A_TEXT_ENCODER, RunConfig

# The settings of a run that may be others where a worker is.
OF_A_WORKER = ("datadir", "resultdir", "log_interval", "verbose", *OF_A_MACHINE)
BY_ID = True  # --attention without a number
_OF_SCORES = ("bootstrap", "against")
# What nothing but a training reads, beside what OF_A_TEXT_ENCODER names.
_OF_A_TRAINING = (
    *("loss", "lr", "epochs", "scheduler", "plateau_factor", "plateau_patience", "weight_decay"),
    *("grad_clip", "patience", "accumulation_steps", "finetune_bert", "save_every"),
)
_READ = {
    "worker": OF_A_WORKER,
    "table": ("resultdir", "save"),
    "export": ("checkpoint", "model", "save"),
    "predict": tuple(vars(RunConfig()).keys() - {"alignment"}),
}
_OF_TRAININGS = ("train", "compare", "ablate", "tune", "worker")
_OTHER_WORK = (*_OF_TRAININGS, "table", "dry_run")
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
    for name in ("predict", "export", "table", "attention", "overwrite", "save_every", "pdf"):
        if arguments.get(name) and not config.save:
            parser.error(f"--{name} writes files: leave --no_save out")
    _check_training(parser, arguments)
    if not arguments["worker"]:  # which has its own words for what it does not take
        _check_learning(parser, arguments, config)
    _check_read(parser, arguments)
    _check_attention(parser, arguments)


def _check_read(parser: argparse.ArgumentParser, arguments: dict[str, Any]) -> None:
    """Refuse settings that what is done would not look at."""
    given = [field for field in fields(RunConfig) if field.name in arguments]
    for work, what in (
        ("worker", f"--worker takes its settings from {arguments['worker']}: "),
        ("table", "--table looks at no setting of a run: "),
        ("export", "--export writes what the checkpoint holds: "),
        ("predict", "--predict has its data from its own path: "),
    ):
        for field in given if arguments[work] else ():
            if field.name not in _READ[work]:
                option = f"--no_{field.name}" if field.default is True else f"--{field.name}"
                parser.error(f"{what}leave {option} out")


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
    if arguments["resume"] not in (None, "auto") and arguments["seeds"]:
        parser.error("--resume FILE goes on with one training; with --seeds give --resume auto")


def _check_learning(
    parser: argparse.ArgumentParser, arguments: dict[str, Any], config: RunConfig
) -> None:
    is_study = any(arguments[work] for work in ("compare", "ablate", "tune"))
    learns = is_study or arguments["train"]
    learns = learns or (arguments["dry_run"] and config.checkpoint is None)  # or it evaluates
    for name in (*_OF_A_TRAINING, *OF_A_TEXT_ENCODER):
        if name in arguments and not learns:
            parser.error(f"--{name} goes with --train, --compare, --ablate or --tune")
    for name in ("finetune_bert", *OF_A_TEXT_ENCODER):
        if name in arguments and config.finetune_bert is None and config.checkpoint is None:
            parser.error(f"--{name} goes with --finetune_bert")
    for name in () if is_study else ("plateau_factor", "plateau_patience"):
        if name in arguments and config.scheduler != "plateau":
            parser.error(f"--{name} goes with --scheduler plateau")


def _check_attention(parser: argparse.ArgumentParser, arguments: dict[str, Any]) -> None:
    wanted, ids = arguments["attention"], arguments["ids"]
    if wanted is BY_ID and not ids:
        parser.error("--attention: give it a number of segments, or --ids")
    if wanted and wanted is not BY_ID and ids and wanted != len(ids):
        parser.error(f"--attention {wanted}, but --ids names {len(ids)}: leave the number out")
