"""Prepare CMU-MOSEI for NHFNet: .csd files, or a processed pickle, to train/val/test splits."""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take a while
    import system.early_interrupt  # noqa: F401

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.layout import ALIGNMENT_NAMES, LOCK, alignment_folder
from system.console import (
    ArgumentParser,
    device_name,
    format_table,
    print_heading,
    print_line,
    print_warning,
    run,
    whole_number,
)
from system.devices import PRECISIONS
from system.errors import InputError

if TYPE_CHECKING:
    from data.fetching.server import Dataset
    from data.preparing.sources import DataSource
    from system.processes import Processes

DEFAULT_BERT = "bert-base-uncased"
DEFAULT_AUDIO_LENGTH, DEFAULT_VISUAL_LENGTH = 500, 375  # rows


def parse_arguments() -> argparse.Namespace:
    """Read the command line; nothing slow is imported for it."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--datadir", type=Path, default=Path("CMU_MOSEI"), help="the dataset's folder")
    add("--dataset", choices=("mosei", "mosi"), default="mosei", help="which .csd files")
    add("--csd", type=Path, metavar="DIR", help="where the .csd files lie (DATADIR/csd)")
    add("--mirror", metavar="URL", help="download missing .csd files from this host instead")
    add("--folds", type=Path, metavar="FILE.json", help="another split than the standard one")
    add("--from", dest="pickle", type=Path, metavar="FILE", help="a pickle of MMSA or MulT")
    add("--demo", action="store_true", help="make a small made-up CMU-MOSEI; needs no network")
    add(
        "--alignment",
        choices=ALIGNMENT_NAMES,
        nargs="+",
        help="rows of a segment (the default), means by word, or longer unaligned rows; several "
        "may be given",
    )
    length = whole_number(1)
    audio, visual = DEFAULT_AUDIO_LENGTH, DEFAULT_VISUAL_LENGTH
    add("--audio_length", type=length, help=f"rows of `unaligned` audio ({audio})")
    add("--visual_length", type=length, help=f"rows of `unaligned` visual ({visual})")
    add("--bert", metavar="NAME_OR_DIR", help=f"the text encoder ({DEFAULT_BERT})")
    add("--bert_precision", choices=PRECISIONS, default=PRECISIONS[0])
    add("--no_bert", action="store_true", help="leave the text features out, for a later run")
    add("--device", type=device_name, default="auto", help="where BERT runs")
    add("--check", action="store_true", help="verify what is prepared, and stop")
    add("--plot", action="store_true", help="draw what is prepared, and stop")
    arguments = parser.parse_args()
    for this, excludes in (
        ("demo", ("pickle", "csd", "mirror", "folds", "bert")),
        ("pickle", ("csd", "mirror", "folds", "alignment", "audio_length", "visual_length")),
        ("no_bert", ("bert",)),
    ):
        for other in excludes:
            if getattr(arguments, this) and getattr(arguments, other):
                names = ["--" + name.replace("pickle", "from") for name in (this, other)]
                parser.error(f"{names[0]} and {names[1]} exclude each other")
    for name in ("audio_length", "visual_length"):
        if getattr(arguments, name) and "unaligned" not in (arguments.alignment or ()):
            parser.error(f"--{name} goes with --alignment unaligned")
    return arguments


def main() -> None:
    """Parse, check and call."""
    arguments = parse_arguments()
    if arguments.check or arguments.plot:
        inspect(arguments)
        return
    from system.locks import lock_folder
    from system.processes import join_processes, leave_processes

    processes = join_processes()
    if arguments.datadir.exists() and not arguments.datadir.is_dir():
        raise InputError(f"{arguments.datadir} is a file; give the dataset's folder.")
    if not (arguments.datadir.is_dir() or arguments.demo or arguments.pickle):
        raise InputError(
            f"No folder {arguments.datadir}; create it (the .csd files are downloaded to csd/ in "
            "it), or give the dataset's folder with --datadir."
        )
    if arguments.csd and not arguments.csd.is_dir():
        raise InputError(f"No folder {arguments.csd}; give the one that holds the .csd files.")
    lock = lock_folder(arguments.datadir, LOCK, "Another preparation is working in", "--datadir")
    with lock if processes.is_first else nullcontext():
        for alignment, origin in find_origins(arguments, processes):
            prepare_one(arguments, alignment, origin, processes)
    leave_processes(processes)


def inspect(arguments: argparse.Namespace) -> None:
    """Check, or draw, each alignment asked for; exit code 1 when something is wrong."""
    from data.checking.check import check_dataset, print_report

    is_wrong = False
    for alignment in arguments.alignment or ALIGNMENT_NAMES[:1]:
        folder = alignment_folder(arguments.datadir, alignment)
        report = check_dataset(folder)
        if arguments.check:
            print_report(report)
        is_wrong |= bool(report.problems)
        if arguments.plot and report.problems and not arguments.check:
            print_warning(
                f"{len(report.problems)} things are wrong with {folder}; --check names them"
            )
        if arguments.plot:
            from data.checking.figures import plot_dataset

            plot_dataset(folder / "dataset.png", report.splits)
            print_line(f"Drawn: {folder / 'dataset.png'}")
    if is_wrong:
        raise SystemExit(1)


def find_origins(
    arguments: argparse.Namespace, processes: Processes
) -> list[tuple[str, DataSource]]:
    """Return each alignment asked for, and where its arrays come from."""
    from data.fetching.server import DATASETS
    from data.preparing.segments import Lengths
    from data.preparing.sources import CommunityFile, CsdFiles

    if arguments.pickle:
        return [
            (ALIGNMENT_NAMES[0], CommunityFile(arguments.pickle, takes_text=not arguments.bert))
        ]
    csd_dir = arguments.csd or arguments.datadir / "csd"
    dataset = DATASETS[arguments.dataset]
    if arguments.demo:
        from data.fetching.demo import DEMO, write_demo

        dataset = DEMO
        arguments.bert = str(processes.broadcast(write_demo(arguments.datadir)))
    elif processes.is_first:
        fetch_missing(csd_dir, dataset, arguments.mirror)
    processes.broadcast(None)
    paths = {kind: csd_dir / source.name for kind, source in dataset.sequences.items()}
    lengths = dict.fromkeys(ALIGNMENT_NAMES, Lengths(visual=50, audio=50))
    lengths["unaligned"] = Lengths(
        visual=arguments.visual_length or DEFAULT_VISUAL_LENGTH,
        audio=arguments.audio_length or DEFAULT_AUDIO_LENGTH,
    )
    return [
        (name, CsdFiles(paths, dataset, arguments.folds or dataset.folds, name, lengths[name]))
        for name in arguments.alignment or ALIGNMENT_NAMES[:1]
    ]


def fetch_missing(csd_dir: Path, dataset: Dataset, mirror: str | None) -> None:
    """Download the sequences that `csd_dir` lacks."""
    sources = dataset.sequences.values()
    missing = [source for source in sources if not (csd_dir / source.name).is_file()]
    if not (missing or mirror):
        return
    from data.fetching.download import DEFAULT_MIRROR, checked_mirror, download
    from data.formats.csd import check_csd

    host = checked_mirror(mirror or DEFAULT_MIRROR)
    csd_dir.mkdir(exist_ok=True)
    for source in missing:
        print_line(f"Downloading {source.name}")
        download(f"{host}/{source.server_path}", csd_dir / source.name, check_csd)


def prepare_one(
    arguments: argparse.Namespace, alignment: str, origin: DataSource, processes: Processes
) -> None:
    """Prepare one alignment and print what came out."""
    from data.preparing.pipeline import Request, TextRequest, prepare

    text = None
    if not arguments.no_bert:
        bert = arguments.bert or DEFAULT_BERT
        text = TextRequest(bert, arguments.bert_precision, arguments.device)
    manifest = prepare(Request(arguments.datadir, alignment, origin, text), processes)
    if processes.is_first:
        print_summary(alignment_folder(arguments.datadir, alignment), manifest)


def print_summary(folder: Path, manifest: dict[str, Any]) -> None:
    """Print what came out, and what did not and why."""
    print_heading(f"{folder}: ready ({manifest['made_from']['dataset']})")
    rows = [
        [split, count["segments"], count["videos"]] for split, count in manifest["splits"].items()
    ]
    print_line(format_table(["split", "segments", "videos"], rows))
    if manifest["left_out"]:
        print_line("\nLeft out, in rows of the labels file:")
        print_line(format_table(["reason", "count"], list(manifest["left_out"].items())))
    if manifest["text"] is None:
        print_line("\nWithout text features; the same command without --no_bert adds them.")


if __name__ == "__main__":
    run(main)
