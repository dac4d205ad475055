"""Train NHFNet, or another model, on CMU-MOSEI, or evaluate a checkpoint."""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take a while
    import system.early_interrupt
    import system.this_python  # noqa: F401
    from system.cpus import let_threads_sleep

    let_threads_sleep()

import argparse
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

from system.argument_types import file_path, name_or_path, some_text, whole_number
from system.config import parse_assignments
from system.console import print_line
from system.errors import InputError
from system.program import ArgumentParser, run
from utils.actions import DEFAULT_SPLIT, run_action
from utils.option_checks import BY_ID, check_options
from utils.run_config import AS_PREPARED, DEFAULT_MODEL, MAX_SEED, RunConfig, read_run_config

# The groups of settings in --help, by the first setting of each.
_GROUPS = {
    "datadir": "data",
    "model": "model",
    "loss": "training",
    "finetune_bert": "text encoder",
    "device": "running",
    "checkpointdir": "output",
}
_METAVARS = {"int": "N", "float": "NUMBER", "Path": "PATH"}  # by the type of a field


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line, without slow imports."""
    parser = ArgumentParser(description=__doc__)
    actions = parser.add_argument_group("what to do")
    add, add_action = actions.add_argument, actions.add_mutually_exclusive_group().add_argument
    add_action("--train", action="store_true", help="train; without it, evaluate --checkpoint")
    compare = (
        "train these models, each with its published settings or with those of a run.json, and "
        "write one table; the same command continues it"
    )
    add_action("--compare", type=name_or_path, nargs="+", metavar="MODEL|FILE.json", help=compare)
    ablate = "as --compare, for NHFNet whole and with each part left out or replaced"
    add_action("--ablate", action="store_true", help=ablate)
    tune = (
        "search for settings of --model in N trials, on the validation split alone, then train "
        "and test the best once per seed; the same command continues it"
    )
    add_action("--tune", type=whole_number(1), metavar="N", help=tune)
    worker = "help with the --compare, --ablate or --tune of this folder: take runs from it"
    add_action("--worker", type=file_path, metavar="FOLDER", help=worker)
    table = "write a table of the runs in or below these folders to --resultdir"
    add_action("--table", type=file_path, nargs="+", metavar="RUN", help=table)
    models = "list the models with their settings, then exit"
    add_action("--models", action="store_true", help=models)
    space = "the search space of --tune: settings and their values (default: the model's own)"
    add("--space", type=file_path, metavar="FILE.json", help=space)
    storage = (
        "the database that assigns the runs of --compare, --ablate and --tune, such as "
        "postgresql+psycopg://HOST/NAME (default: an SQLite file in --checkpointdir)"
    )
    add("--storage", type=some_text, metavar="URL", help=storage)
    same_settings = "train all models of --compare with the same settings"
    add("--same_settings", action="store_true", help=same_settings)
    split = f"the split to evaluate (default: {DEFAULT_SPLIT})"
    add("--split", choices=("val", DEFAULT_SPLIT), help=split)
    robustness = "score --checkpoint with each modality missing, noisy or shifted in time"
    add("--robustness", action="store_true", help=robustness)
    beside = "other checkpoints that --robustness scores too, for comparison"
    add("--beside", type=file_path, nargs="+", default=[], metavar="FILE", help=beside)
    attention = (
        "with --checkpoint: also draw what the model attends to, in the N segments with the worst "
        "predictions or in those of --ids"
    )
    add("--attention", type=whole_number(1), nargs="?", const=BY_ID, metavar="N", help=attention)
    ids = (
        "with --attention: the ids of the segments, as in predictions.csv; write an id that begins "
        "with - as --ids=ID"
    )
    add("--ids", nargs="+", action="extend", metavar="ID", help=ids)
    add(
        "--resume",
        type=name_or_path,
        metavar="FILE|auto",
        help="continue from a last.pth; auto: from the one in --checkpointdir, if there is one",
    )
    add(
        "--overwrite",
        action="store_true",
        help="first remove the files of an earlier run from --checkpointdir, and no other files",
    )
    seed = whole_number(0, MAX_SEED)
    seeds = "train once per seed, in folders seed{N}; report mean and deviation of every score"
    add("--seeds", type=seed, nargs="+", metavar="N", help=seeds)
    config = (
        "take the settings of a run.json, or the published settings of the model; other options "
        "override them; to take one out that no option undoes, such as --compile, edit the file"
    )
    add("--config", type=file_path, metavar="FILE.json|published", help=config)
    predict = (
        "with --checkpoint: predict a prepared dataset, one of its splits, or a processed pickle, "
        "with or without labels, and write predictions.csv"
    )
    add("--predict", type=file_path, metavar="PATH", help=predict)
    bert = "with --predict: encode a pickle's sentences with this BERT, as dataset_prep.py does"
    add("--bert", type=name_or_path, metavar="NAME_OR_DIR", help=bert)
    export = (
        "with --checkpoint: write its model to this file: .safetensors, which loads like a "
        "checkpoint, or .onnx, for onnxruntime"
    )
    add("--export", type=file_path, metavar="FILE.safetensors|FILE.onnx", help=export)
    dry_run = "print what the command would do and what it costs; train and write nothing"
    add("--dry_run", action="store_true", help=dry_run)
    for field in fields(RunConfig):
        if field.name in _GROUPS:
            group = parser.add_argument_group(_GROUPS[field.name])
        _add_setting(group, field)
    pdf = "also write each picture as a PDF, beside the PNG, for papers"
    group.add_argument("--pdf", action="store_true", help=pdf)
    return parser


def _add_setting(group: argparse._ArgumentGroup, field: Field[Any]) -> None:
    """Add the option of one field of RunConfig; unless it is given, the arguments lack its name."""
    name, default = field.name, field.default
    options = {"dest": name, "default": argparse.SUPPRESS, "help": field.metadata["meaning"]}
    if name == "set":
        group.add_argument("--set", nargs="+", action="extend", metavar="KEY=VALUE", **options)
    elif isinstance(default, bool):
        flag, action = (f"--no_{name}", "store_false") if default else (f"--{name}", "store_true")
        group.add_argument(flag, action=action, **options)
    else:
        parse = field.metadata["parse"]
        if hasattr(parse, "names"):
            options["metavar"] = "{" + ",".join(parse.names) + "}"
        else:
            options["metavar"] = _METAVARS.get(field.type.split(" ")[0], name.upper())
        if default is not None:
            options["help"] += f" (default: {default})"
        if name == "finetune_bert":
            options |= {"nargs": "?", "const": AS_PREPARED, "metavar": "NAME_OR_DIR"}
        group.add_argument(f"--{name}", type=parse, **options)


def parse_config(parser: argparse.ArgumentParser, arguments: dict[str, Any]) -> RunConfig:
    """Make a run's configuration: the command line overrides --config, --config the defaults."""
    path = arguments["config"]
    if path == Path("published") or (path is None and arguments["tune"]):
        from models.registry import find_published, published_settings

        find = find_published if path is None else published_settings  # which have to exist
        path = find(_published_model(arguments))
    config = read_run_config(path) if path else RunConfig()
    if path and "checkpoint" in arguments and not (arguments["compare"] or arguments["tune"]):
        # The checkpoint has its model and its model's settings; studies refuse one.
        config = replace(config, model=_stored_model(arguments["checkpoint"], config.model), set={})
    options = {name: arguments[name] for name in vars(config) if name in arguments}
    if "set" in options:
        from models.registry import config_class

        model = options.get("model") or config.model or DEFAULT_MODEL
        where = f"--compare {model} (--set counts for all models): " * bool(arguments["compare"])
        own_settings = parse_assignments(config_class(model), options["set"], f"{where}--set")
        options["set"] = config.set | own_settings
    config = replace(config, **options)
    check_options(parser, arguments, config)
    is_from_config = config.finetune_bert and "finetune_bert" not in options
    if arguments["train"] and config.checkpoint and is_from_config:
        config = _without_second_text_encoder(config, options)
    return config


def _published_model(arguments: dict[str, Any]) -> str:
    """Return whose published settings count: those of --model, else of --checkpoint's model."""
    name: str | None = arguments.get("model")
    if name is None and "checkpoint" in arguments:
        name = _stored_model(arguments["checkpoint"])
    return name or DEFAULT_MODEL


def _stored_model(path: Path, otherwise: str | None = None) -> str | None:
    """Return the name of the model in a checkpoint, `otherwise` if it names none.

    A user's own class, which is never imported by its name in a file, is None, unless `otherwise`
    may be that class.
    """
    from models.checkpoint import read_checkpoint
    from models.registry import MODELS

    name = read_checkpoint(path).model
    if name is None or (name not in MODELS and otherwise not in MODELS):
        return otherwise
    return name if name in MODELS else None


def _without_second_text_encoder(config: RunConfig, options: dict[str, Any]) -> RunConfig:
    """Remove --config's --finetune_bert and --set where --checkpoint already has a text encoder.

    Those among the command line's `options` stay, and are refused later.
    """
    from models.checkpoint import read_checkpoint

    if read_checkpoint(config.needed_checkpoint).text_encoder is None:
        return config
    return replace(config, finetune_bert=None, set=config.set if "set" in options else {})


def parse_study(
    parser: argparse.ArgumentParser, arguments: dict[str, Any]
) -> dict[str, RunConfig] | None:
    """Make the configurations that --compare or --ablate trains, by name; None without these."""
    models, is_same = arguments["compare"], arguments["same_settings"]
    if is_same and not models:
        parser.error("--same_settings goes with --compare")
    if models and ("model" in arguments or (arguments["config"] and not is_same)):
        parser.error("--compare goes without --model, and with --config for --same_settings only")
    if arguments["ablate"]:
        from utils.studies.ablations import ablations

        return ablations(parse_config(parser, arguments))
    shared = arguments | {"config": arguments["config"] if is_same else Path("published")}
    study: dict[str, RunConfig] = {}
    for model in models or ():
        if model.endswith(".json") and not is_same:
            name, config = _named_run(parser, arguments, Path(model))
        else:
            name, config = model, parse_config(parser, shared | {"model": model})
        if name in study:
            parser.error(f"--compare: two runs have the name {name}; rename a folder or a file")
        study[name] = config
    return study or None


def _named_run(
    parser: argparse.ArgumentParser, arguments: dict[str, Any], path: Path
) -> tuple[str, RunConfig]:
    """Return a name for the run of a run.json, and its configuration without its paths.

    Raises InputError for a run that started from a checkpoint.
    """
    config = parse_config(parser, arguments | {"config": path})
    if config.checkpoint is not None and "checkpoint" not in arguments:
        raise InputError(
            f"--compare {path}: this run started from {config.checkpoint}, but a comparison trains "
            "from scratch; leave it out."
        )
    run_specific = vars(config).keys() - config.outcome.keys() - arguments.keys()
    defaults = vars(RunConfig())
    name = path.resolve().parent.name if path.stem == "run" else path.stem
    return name, replace(config, **{setting: defaults[setting] for setting in run_specific})


def main() -> None:
    """Parse and check the command line, then run the action."""
    parser = build_parser()
    arguments = vars(parser.parse_args())
    if arguments["models"]:
        from utils.reports.costs import model_list

        print_line(model_list())
        return
    if arguments["pdf"]:
        from system.figures import also_write_pdfs  # matplotlib is slow to import

        also_write_pdfs()
    study = parse_study(parser, arguments)
    config = next(iter(study.values())) if study else parse_config(parser, arguments)
    run_action(config, study, arguments)


if __name__ == "__main__":
    run(main)
