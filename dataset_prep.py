"""Prepare CMU-MOSEI for NHFNet: .csd files, or a processed pickle, to train/val/test splits."""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take a while
    import system.early_interrupt
    import system.this_python  # noqa: F401
    from system.cpus import let_threads_sleep

    let_threads_sleep()

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.fetching.server import CMU_HOST, DATASET_NAMES, DATASETS
from data.layout import ALIGNMENT_NAMES, LOCK
from system.argument_types import device_name, file_path, name_or_path, whole_number
from system.devices import PRECISIONS
from system.errors import InputError
from system.program import ArgumentParser, run

if TYPE_CHECKING:
    from data.fetching.server import SequenceFile
    from data.preparing.request import DataSource, Request
    from system.processes import Processes

_MAX_ROWS = 100_000  # of a segment: far more than any has


def build_parser() -> ArgumentParser:
    """Build the command-line parser without slow imports, so that --help is fast."""
    parser = ArgumentParser(description=__doc__)
    _add_steps(parser.add_argument_group("what to do"))
    _add_data(parser.add_argument_group("data"))
    _add_text(parser.add_argument_group("text"))
    device = (
        "the device of the text encoder: auto (CUDA where there is a device, else the CPU), cpu, "
        "cuda or cuda:N"
    )
    running = parser.add_argument_group("running")
    _add(running, "--device", device, type=device_name, default="auto")
    return parser


def _add(group: argparse._ArgumentGroup, name: str, meaning: str, **options: Any) -> None:
    """Add an option, whose help ends with its default unless it says that itself."""
    if "default" in options and "(default: " not in meaning:
        meaning += " (default: %(default)s)"
    group.add_argument(name, help=meaning, **options)


def _add_steps(group: argparse._ArgumentGroup) -> None:
    for name, meaning in {
        "--demo": "write a small made-up CMU-MOSEI first, and prepare that; needs no network",
        "--dry_run": "print what the command would do and what that costs, as far as it is known: "
        "files to download, segments, bytes to write, sentences to encode; nothing is written or "
        "downloaded",
        "--check": "instead of preparing, verify the prepared dataset and print what it holds; the "
        "exit code is 1 when anything is wrong",
        "--force": "make everything again, arrays and text, even where nothing seems to have "
        "changed",
        "--plot": "instead of preparing, draw the labels, lengths and padding of the prepared "
        "dataset into dataset.png beside the splits",
    }.items():
        _add(group, name, meaning, action="store_true")


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = partial(_add, group)
    folder = {"type": file_path, "metavar": "DIR"}
    datadir = "the dataset's folder, in which train/, val/ and test/ are made"
    add("--datadir", datadir, default=Path("CMU_MOSEI"), **folder)
    dataset = "whose .csd files to prepare; with --from, whose labels and scores the pickle has"
    add("--dataset", dataset, choices=DATASET_NAMES, default="mosei")
    csd = "where the .csd files are, and missing ones are downloaded to (default: DATADIR/csd)"
    add("--csd", csd, **folder)
    add("--mirror", "the host to download missing .csd files from", metavar="URL", default=CMU_HOST)
    folds = (
        'your own split, {"train": [video id, ...], "val": [...], "test": [...]} (default: '
        "the dataset's standard folds)"
    )
    add("--folds", folds, type=file_path, metavar="FILE.json")
    pickle = (
        "prepare a processed pickle instead of .csd files: MMSA's, MulT's, MAG-BERT's, or MISA's "
        "folder of train.pkl, dev.pkl and test.pkl"
    )
    add("--from", pickle, dest="pickle", type=file_path, metavar="FILE.pkl|DIR")
    for kind in ("audio", "visual"):
        features = f"with --from: take {kind} from this pickle instead, matched by segment id"
        add(f"--{kind}", features, type=file_path, metavar="FILE.pkl")
    alignment = (
        "one or several of: segment, a segment's last 50 rows of audio and visual, as in the "
        "released code; word, the mean of the rows in each word, and one text vector per word; "
        "unaligned, more rows of each segment. The last two are written to DATADIR/word and "
        f"DATADIR/unaligned (default: {ALIGNMENT_NAMES[0]})"
    )
    names = {"choices": ALIGNMENT_NAMES, "default": ALIGNMENT_NAMES[:1], "nargs": "+"}
    add("--alignment", alignment, **names)
    for kind, rows in (("audio", 500), ("visual", 375)):
        length = f"the {kind} rows that --alignment unaligned keeps of a segment"
        add(f"--{kind}_length", length, type=whole_number(1, _MAX_ROWS), metavar="N", default=rows)


def _add_text(group: argparse._ArgumentGroup) -> None:
    add = partial(_add, group)
    bert = (
        "the text encoder: a name on the Hugging Face hub, or a folder with configuration, "
        "vocabulary and weights (default: %(default)s; with --from, the pickle's own text "
        "features, if it has some)"
    )
    add("--bert", bert, type=name_or_path, metavar="NAME_OR_DIR", default="bert-base-uncased")
    precision = (
        "the precision of the text encoder; bfloat16 is less exact, but several times faster on a "
        "processor that supports it"
    )
    add("--bert_precision", precision, choices=PRECISIONS, default=PRECISIONS[0])
    no_bert = (
        "leave out the text features (with --from, the pickle's own are taken unless a BERT has "
        "computed those in place); the same command without this option adds them later, and "
        "changes nothing else"
    )
    add("--no_bert", no_bert, action="store_true")


def parse_arguments() -> tuple[argparse.Namespace, set[str]]:
    """Read the command line; returns all values, and the names of the options that were given."""
    parser = build_parser()
    options = parser.parse_args()
    parser.set_defaults(**dict.fromkeys(vars(options)))
    given_options = {name for name, value in vars(parser.parse_args()).items() if value is not None}
    for option, excluded_options in (
        ("demo", ("pickle", "csd", "mirror", "folds", "bert", "dataset")),
        ("pickle", ("csd", "mirror", "folds", "alignment", "audio_length", "visual_length")),
        ("no_bert", ("bert", "bert_precision")),
        ("dry_run", ("check", "plot")),
        ("force", ("check", "plot")),
    ):
        for excluded in excluded_options:
            if {option, excluded} <= given_options:
                names = ["--" + name.replace("pickle", "from") for name in (option, excluded)]
                parser.error(f"{names[0]} and {names[1]} exclude each other")
    for name in ("audio_length", "visual_length"):
        if name in given_options and "unaligned" not in options.alignment:
            parser.error(f"--{name} goes with --alignment unaligned")
        if name.removesuffix("_length") in given_options and "pickle" not in given_options:
            parser.error(f"--{name.removesuffix('_length')} goes with --from")
    if options.dataset not in DATASETS and "pickle" not in given_options:
        parser.error(f"--dataset {options.dataset} has no .csd files; give its pickle with --from")
    return options, given_options


def main() -> None:
    """Run the command line."""
    options, given_options = parse_arguments()
    if options.check or options.plot:
        from data.checking.printing import inspect

        inspect(options.datadir, options.alignment, options.check, options.plot)
        return
    from data.preparing.plan import decide_all
    from system.processes import join_processes, leave_processes

    may_be_new = options.demo or bool({"pickle", "csd"} & given_options)
    check_folders(options.datadir, options.csd, may_be_new)
    if "mirror" in given_options:
        from data.fetching.download import checked_host

        options.mirror = checked_host(options.mirror)
    requests, missing = read_requests(options, given_options)
    processes = join_processes()
    if not options.dry_run:
        prepare_all(options, requests, missing, processes)
    elif processes.is_first:
        how = "write the demo" if options.demo else f"download from {options.mirror}"
        from data.preparing.printing import print_plans

        print_plans(decide_all(requests, not missing), dict.fromkeys(missing, how))
    leave_processes(processes)


def read_requests(
    options: argparse.Namespace, given_options: set[str]
) -> tuple[list[Request], dict[Path, SequenceFile]]:
    """Return a request for each alignment, and the .csd files that are missing, by path."""
    from data.fetching.demo import DEMO, demo_bert, demo_is_written, holds_demo
    from data.formats.folds import read_folds
    from data.preparing.pickle_source import PickleSource
    from data.preparing.request import Request, TextRequest
    from data.preparing.segments import ALIGNED_LENGTHS
    from data.preparing.sources import CsdSource

    sources: dict[str, DataSource]
    missing: dict[Path, SequenceFile] = {}
    if "pickle" in given_options:
        scores = options.dataset if "dataset" in given_options else None
        files = options.audio, options.visual
        source = PickleSource(options.pickle, "bert" not in given_options, scores, *files)
        sources = {ALIGNMENT_NAMES[0]: source}
    else:
        csd_dir = options.csd or options.datadir / "csd"
        is_made_up = options.demo or (options.dataset == DEMO.name and holds_demo(csd_dir))
        dataset = DEMO if is_made_up else DATASETS[options.dataset]
        paths = {kind: csd_dir / file.name for kind, file in dataset.sequences.items()}
        folds = options.folds or dataset.folds
        read_folds(folds)  # an error in them should show before hours of downloads
        lengths = dict.fromkeys(ALIGNMENT_NAMES, ALIGNED_LENGTHS)
        lengths["unaligned"] = {"visual": options.visual_length, "audio": options.audio_length}
        sources = {
            name: CsdSource(paths, dataset, folds, name, lengths[name])
            for name in options.alignment
        }
        if options.demo:
            missing_kinds = [] if demo_is_written(options.datadir) else list(paths)
        else:
            missing_kinds = [kind for kind, path in paths.items() if not path.is_file()]
            if is_made_up and missing_kinds:
                raise InputError(
                    f"{csd_dir} holds the made-up labels of --demo, but not all of its files; give "
                    "--demo with the --datadir above it, or another --csd."
                )
        missing = {paths[kind]: dataset.sequences[kind] for kind in missing_kinds}
    bert = str(demo_bert(options.datadir)) if options.demo else options.bert
    text = None if options.no_bert else TextRequest(bert, options.bert_precision, options.device)
    requests = [
        Request(options.datadir, name, source, text, options.force)
        for name, source in sources.items()
    ]
    return requests, missing


def check_folders(datadir: Path, csd_dir: Path | None, may_be_new: bool) -> None:
    """Raise InputError if a folder is missing that the user has to create."""
    if datadir.exists() and not datadir.is_dir():
        raise InputError(f"{datadir} is a file; give the dataset's folder.")
    if not (datadir.is_dir() or may_be_new):
        raise InputError(
            f"No folder {datadir}; create it (the .csd files are downloaded to csd/ in it), or "
            "give the dataset's folder with --datadir."
        )
    if csd_dir is not None and not csd_dir.is_dir():
        raise InputError(
            f"No folder {csd_dir}; create it (missing .csd files are downloaded to it), or give "
            "the one that holds the .csd files."
        )


def prepare_all(
    options: argparse.Namespace,
    requests: Sequence[Request],
    missing: dict[Path, SequenceFile],
    processes: Processes,
) -> None:
    """Download or write the missing files, then prepare each alignment and print a summary."""
    from data.fetching.demo import write_demo
    from data.fetching.download import download_missing
    from data.preparing.pipeline import prepare
    from data.preparing.plan import decide_all
    from data.preparing.printing import print_summary
    from system.locks import lock_folder

    lock = lock_folder(options.datadir, LOCK, "Another preparation is working in", "--datadir")
    with lock if processes.is_first else nullcontext():
        if processes.is_first and missing:
            decide_all(requests, files_are_there=False)
            if options.demo:
                write_demo(options.datadir)
            else:
                download_missing(missing, options.mirror)
        processes.broadcast(None)
        for request in requests:
            manifest = prepare(request, processes)
            if processes.is_first:
                print_summary(request.folder, manifest)


if __name__ == "__main__":
    run(main)
