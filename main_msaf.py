"""Train NHFNet on CMU-MOSEI, or evaluate a checkpoint."""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take a while
    import system.early_interrupt  # noqa: F401

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.layout import ALIGNMENT_NAMES, alignment_folder
from system.console import (
    ArgumentParser,
    device_name,
    format_table,
    number_from_zero,
    positive_number,
    print_heading,
    print_line,
    print_warning,
    run,
    whole_number,
)
from utils.choices import PRECISIONS, SCHEDULERS

if TYPE_CHECKING:
    from data.loading.split import LoaderOptions, Split
    from models.nhfnet import NHFNet
    from utils.reports.evaluation import Evaluation
    from utils.reports.metrics import Scores
    from utils.training.trainer import Trainer


_MOST_WORKERS = 256  # more would only take memory


def parse_arguments() -> argparse.Namespace:
    """Read the command line; nothing slow is imported for it."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    positive, count, seed = whole_number(1), whole_number(0), whole_number(0, 2**32 - 1)
    add("--train", action="store_true", help="train; without it, evaluate --checkpoint")
    add("--checkpoint", type=Path, help="weights to evaluate, or to start training from")
    add("--datadir", type=Path, default=Path("CMU_MOSEI"), help="the prepared dataset's folder")
    add("--alignment", choices=ALIGNMENT_NAMES, default=ALIGNMENT_NAMES[0], help="of the dataset")
    add("--lr", type=positive_number, default=1e-3, help="Adam's learning rate")
    add("--batch_size", type=positive, default=16, help="segments a batch")
    add("--num_workers", type=count, default=0, help="processes that load batches ahead")
    add("--epochs", type=positive, default=10, help="passes over the training split")
    add("--scheduler", choices=SCHEDULERS, default=SCHEDULERS[0], help="of --lr")
    add("--weight_decay", type=number_from_zero, default=0.0, help="Adam's")
    add("--grad_clip", type=positive_number, help="largest norm of the gradients")
    add("--patience", type=positive, help="stop after so many epochs without a better val MAE")
    add(
        "--checkpointdir",
        type=Path,
        default=Path("checkpoints"),
        help="where training writes checkpoints, metrics.csv, and logs/ for TensorBoard",
    )
    add("--save_every", type=positive, help="save for --resume every so many steps, too")
    add("--resume", metavar="FILE|auto", help="go on from last.pth; auto: if there is one")
    add("--no_verbose", action="store_true", help="no running loss and no progress bars")
    add("--log_interval", type=positive, default=100, help="batches between running-loss lines")
    add("--no_save", action="store_true", help="write no checkpoints, logs or results")
    add("--device", type=device_name, default="auto", help="auto, cpu, cuda or cuda:N")
    add("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="bfloat16: mixed, faster")
    add("--compile", action="store_true", help="use torch.compile, which takes minutes to start")
    add("--seed", type=seed, default=20, help="of the weights, the batch order and dropout")
    add("--seeds", type=seed, nargs="+", help="train once per seed; report mean and deviation")
    add("--resultdir", type=Path, default=Path("result"), help="where results are written")
    add("--split", choices=("val", "test"), default="test", help="what to evaluate on")
    add("--dry_run", action="store_true", help="print the model's parts and costs, and stop")
    arguments = parser.parse_args()
    if not (arguments.train or arguments.dry_run) and arguments.checkpoint is None:
        parser.error("give --train to train, or --checkpoint FILE to evaluate")
    if arguments.num_workers > _MOST_WORKERS:
        parser.error(f"--num_workers is {arguments.num_workers}, expected at most {_MOST_WORKERS}")
    if arguments.resume and (arguments.checkpoint or not arguments.train):
        parser.error("--resume goes with --train, and without --checkpoint")
    return arguments


def main() -> None:
    """Parse, check and call."""
    arguments = parse_arguments()
    from data.loading.split import LoaderOptions
    from system.devices import pick_device
    from system.processes import join_processes, leave_processes

    processes = join_processes()
    if not processes.is_first:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (only one process prints)
    loading = LoaderOptions(
        device=pick_device(processes.device(arguments.device)),
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        verbose=processes.is_first and not arguments.no_verbose,
        processes=processes,
    )
    if arguments.dry_run:
        dry_run(arguments, loading)
    elif arguments.train and arguments.seeds:
        train_by_seed(arguments, loading)
    elif arguments.train:
        train_and_test(arguments, loading)
    else:
        evaluate_checkpoint(arguments, loading)
    leave_processes(processes)


def train_and_test(arguments: argparse.Namespace, loading: LoaderOptions) -> Scores:
    """Train, then score the test split at the best validation epoch."""
    from utils.reports.evaluation import evaluate
    from utils.training.history import picked_on_test

    folder = alignment_folder(arguments.datadir, arguments.alignment)
    trainer = make_trainer(arguments, loading, folder)
    if arguments.resume:
        resume(trainer, arguments)
    make_resultdir(arguments)
    trainer.run()
    splits = trainer.splits
    print_heading(f"Test scores at epoch {trainer.best.number}, the best by validation MAE")
    evaluation = evaluate(trainer.predictor, splits["test"], loading)
    print_scores(evaluation)
    mean = splits["train"].labels.mean()
    error = abs(splits["test"].labels - mean).mean()
    print_line(
        f"Always predicting the training labels' mean, {mean:.2f}, would give MAE {error:.4f}"
    )
    print_line("\nPicked on the test set, as the released code does; no fair comparison:")
    for line in picked_on_test(trainer.epochs):
        print_line(f"  {line}")
    if not arguments.no_save and loading.processes.is_first:
        write_training_results(arguments, folder, trainer, evaluation)
    return evaluation.scores


def make_trainer(arguments: argparse.Namespace, loading: LoaderOptions, folder: Path) -> Trainer:
    """Open the splits in `folder`, build the model, and check that they fit."""
    from data.layout import SPLITS
    from data.loading.split import Split
    from utils.running.computing import Execution
    from utils.training.settings import TrainingSettings
    from utils.training.trainer import Trainer

    splits = {name: Split(folder / name) for name in SPLITS}
    model = make_model(arguments, splits["train"])
    for split in splits.values():
        check_fit(model, split)
    settings = TrainingSettings(
        lr=arguments.lr,
        epochs=arguments.epochs,
        seed=arguments.seed,
        log_interval=arguments.log_interval,
        checkpointdir=None if arguments.no_save else arguments.checkpointdir,
        weight_decay=arguments.weight_decay,
        scheduler=arguments.scheduler,
        grad_clip=arguments.grad_clip,
        patience=arguments.patience,
        save_every=arguments.save_every,
    )
    computing = Execution(arguments.precision, arguments.compile)
    return Trainer(model, splits, settings, loading, describe_data(folder), computing)


def resume(trainer: Trainer, arguments: argparse.Namespace) -> None:
    """Take up an earlier training: of a file, or with `auto` the last one, if there is one."""
    from utils.training.trainer import LAST

    path = Path(arguments.resume)
    if arguments.resume == "auto":
        path = arguments.checkpointdir / LAST
        if not path.exists():
            print_line(f"No {path} yet: starting anew")
            return
    trainer.resume(path)


def write_training_results(
    arguments: argparse.Namespace, folder: Path, trainer: Trainer, evaluation: Evaluation
) -> None:
    """Write the best epoch's evaluation and the curves."""
    from utils.reports.evaluation import write_evaluation
    from utils.training.trainer import BEST

    checkpoint = arguments.checkpointdir / BEST
    results = arguments.resultdir / checkpoint.stem
    about = {**describe_data(folder), "split": "test", "checkpoint": str(checkpoint)}
    write_evaluation(results, evaluation, about)
    plot_training(results, trainer)
    print_line(f"\nCheckpoints are in {arguments.checkpointdir}, results in {results}")


def train_by_seed(arguments: argparse.Namespace, loading: LoaderOptions) -> None:
    """Train once per seed, each in folders of its own, and report mean and deviation."""
    from utils.training.seeds import print_spread, write_spread

    scores = {}
    for seed in arguments.seeds:
        print_heading(f"Seed {seed}")
        own = argparse.Namespace(**vars(arguments))
        own.seed = seed
        own.checkpointdir = arguments.checkpointdir / f"seed{seed}"
        own.resultdir = arguments.resultdir / f"seed{seed}"
        scores[seed] = train_and_test(own, loading)
    print_heading(f"Test scores over the seeds {', '.join(map(str, scores))}")
    print_spread(scores)
    if not arguments.no_save and loading.processes.is_first:
        write_spread(arguments.resultdir / "seeds.json", scores)
        print_line(f"\nIn {arguments.resultdir / 'seeds.json'}")


def dry_run(arguments: argparse.Namespace, loading: LoaderOptions) -> None:
    """Print what the model is made of and what it costs."""
    from data.loading.split import Split
    from utils.reports.costs import model_table

    split = Split(alignment_folder(arguments.datadir, arguments.alignment) / "train")
    model = make_model(arguments, split).to(loading.device)
    check_fit(model, split)
    rows = range(min(loading.batch_size, len(split)))
    inputs = [x.to(loading.device) for x in split[list(rows)].inputs]
    print_line(model_table(model, inputs))


def evaluate_checkpoint(arguments: argparse.Namespace, loading: LoaderOptions) -> None:
    """Score a checkpoint and write what came out."""
    from data.loading.split import Split
    from models.checkpoint import read_checkpoint
    from models.nhfnet import NHFNet
    from utils.reports.evaluation import evaluate, report_not_finite, write_evaluation
    from utils.running.computing import Execution, Predictor

    checkpoint = read_checkpoint(arguments.checkpoint)
    model = NHFNet.restore(checkpoint)
    folder = alignment_folder(arguments.datadir, arguments.alignment)
    split = Split(folder / arguments.split)
    check_fit(model, split)
    data = describe_data(folder)
    trained_on = checkpoint.details.get("alignment")
    if trained_on and data["alignment"] and trained_on != data["alignment"]:
        print_warning(
            f"{arguments.checkpoint} was trained on {trained_on} data, this is {data['alignment']}"
        )
    make_resultdir(arguments)
    computing = Execution(arguments.precision, arguments.compile)
    predictor = Predictor(model.to(loading.device), computing, loading.share_size)
    evaluation = evaluate(predictor, split, loading)
    report_not_finite({arguments.split: evaluation.not_finite})
    print_heading(f"{arguments.checkpoint} on {split.folder}")
    print_scores(evaluation)
    if not arguments.no_save and loading.processes.is_first:
        results = arguments.resultdir / arguments.checkpoint.stem
        about = {**data, "split": arguments.split, "checkpoint": str(arguments.checkpoint)}
        write_evaluation(results, evaluation, about)
        print_line(f"\nResults are in {results}")


def make_resultdir(arguments: argparse.Namespace) -> None:
    """Make the place for results before the work: one that cannot be written is told at once."""
    if not arguments.no_save:
        arguments.resultdir.mkdir(parents=True, exist_ok=True)


def make_model(arguments: argparse.Namespace, split: Split) -> NHFNet:
    """Build the model that training starts from: a checkpoint's, or a new one for the data."""
    import torch

    from models.nhfnet import NHFNet, NHFNetSizes

    torch.manual_seed(arguments.seed)
    if arguments.checkpoint is not None:
        return NHFNet.from_checkpoint(arguments.checkpoint)
    return NHFNet(NHFNetSizes(**split.widths))


def check_fit(model: NHFNet, split: Split) -> None:
    """Raise InputError unless the widths of the split's arrays are the model's."""
    from system.errors import InputError

    for kind, width in split.widths.items():
        expected = getattr(model.sizes, kind)
        if width != expected:
            raise InputError(
                f"{split.folder}: {kind} is {width} wide, but the model takes {expected}; use the "
                "checkpoint that belongs to this data, or prepare the data as for the checkpoint "
                "(text: with the same --bert)."
            )


def describe_data(folder: Path) -> dict[str, Any]:
    """Return what the manifest says the data is, for the files that are written."""
    from data.manifest import read_manifest

    manifest = read_manifest(folder)
    made_from = manifest["made_from"] if manifest else {}
    return {"dataset": made_from.get("dataset"), "alignment": made_from.get("alignment")}


def print_scores(evaluation: Evaluation) -> None:
    """Print the scores as a table."""
    print_line(
        format_table(["score", f"{evaluation.scores.n} segments"], evaluation.scores.lines())
    )


def plot_training(folder: Path, trainer: Trainer) -> None:
    """Draw the run's loss and MAE by epoch."""
    from utils.reports.plots import plot_curves

    losses = [epoch.loss for epoch in trainer.epochs]
    maes = {
        name: [epoch.scores[name].mae for epoch in trainer.epochs]
        for name in trainer.epochs[0].scores
    }
    plot_curves(folder / "curves.png", losses, maes, trainer.best.number)


if __name__ == "__main__":
    run(main)
