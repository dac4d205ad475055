"""Which options of `main_msaf.py` go with which; what does not fit ends in one line."""

from __future__ import annotations

import argparse
from typing import Any

from utils.run_config import RunConfig

BY_ID = True  # --attention without a number
_OTHER_WORK = ("train", "compare", "ablate", "table", "dry_run")
_OF_SCORES = ("bootstrap", "against")
_EXCLUDES = {
    "resume": ("checkpoint", "overwrite"),
    "table": ("dry_run",),
    "predict": (*_OTHER_WORK, "export", *_OF_SCORES),
    "export": (*_OTHER_WORK, *_OF_SCORES),
    "robustness": (*_OTHER_WORK, "predict", "export", *_OF_SCORES),
    "attention": (*_OTHER_WORK, "predict", "export", "robustness"),
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
    for name in ("predict", "export", "table"):
        if arguments[name] and not config.save:
            parser.error(f"--{name} writes files: leave --no_save out")
    _check_training(parser, arguments)
    if arguments["beside"] and not arguments["robustness"]:
        parser.error("--beside goes with --robustness")
    _check_attention(parser, arguments, config)


def _check_training(parser: argparse.ArgumentParser, arguments: dict[str, Any]) -> None:
    trains, resume = arguments["train"], arguments["resume"]
    is_training = trains or arguments["compare"] or arguments["ablate"]
    for name in ("seeds", "overwrite"):
        if arguments[name] and not is_training and not arguments["dry_run"]:
            parser.error(f"--{name} goes with --train, --compare or --ablate")
    if resume and not trains:
        parser.error("--resume goes with --train")
    if resume not in (None, "auto") and arguments["seeds"]:
        parser.error("--resume FILE goes on with one training; with --seeds give --resume auto")


def _check_attention(
    parser: argparse.ArgumentParser, arguments: dict[str, Any], config: RunConfig
) -> None:
    wanted, ids = arguments["attention"], arguments["ids"]
    if ids and not wanted:
        parser.error("--ids goes with --attention")
    if wanted is BY_ID and not ids:
        parser.error("--attention: give it a number of segments, or --ids")
    if wanted and wanted is not BY_ID and ids and wanted != len(ids):
        parser.error(f"--attention {wanted}, but --ids names {len(ids)}: leave the number out")
    if wanted and not config.save:
        parser.error("--attention writes files: leave --no_save out")
