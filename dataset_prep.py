"""Prepare CMU-MOSEI for NHFNet: .csd files in, train/val/test .npy splits out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data.errors import InputError
from utils.console import ArgumentParser, device_name, heading, run, say, table


def parse_arguments() -> argparse.Namespace:
    """Read the command line; nothing slow is imported for it."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--datadir",
        type=Path,
        default=Path("CMU_MOSEI"),
        help="the dataset's folder; .csd files lie, or are downloaded to, csd/ in it "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--bert",
        metavar="NAME_OR_DIR",
        help="the text encoder: a name on the Hugging Face hub, or a folder (default: "
        "bert-base-uncased)",
    )
    parser.add_argument(
        "--device",
        type=device_name,
        default="auto",
        help="where BERT runs: auto, cpu, cuda or cuda:N (default: %(default)s)",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="write a small made-up CMU-MOSEI into --datadir and prepare it; needs no network",
    )
    arguments = parser.parse_args()
    if arguments.demo and arguments.bert:
        parser.error("--demo brings its own BERT; leave --bert out")
    return arguments


def main() -> None:
    """Parse, check and call."""
    arguments = parse_arguments()
    from data.prepare import Request, prepare
    from data.segments import Lengths
    from data.sources import MOSEI

    datadir, csd_dir = arguments.datadir, arguments.datadir / "csd"
    bert, dataset = arguments.bert or "bert-base-uncased", MOSEI
    if arguments.demo:
        from data.demo import DEMO, write_demo

        dataset = DEMO
        say(f"Writing a made-up CMU-MOSEI into {datadir}")
        bert = str(write_demo(datadir))
    else:
        if not datadir.is_dir():
            raise InputError(
                f"No folder {datadir}; create it (the .csd files are downloaded to {csd_dir}), "
                "or give the dataset's folder with --datadir."
            )
        fetch_missing(csd_dir, dataset)
    request = Request(
        datadir=datadir,
        csd_dir=csd_dir,
        dataset=dataset,
        alignment="segment",
        lengths=Lengths(visual=50, audio=50),
        bert=bert,
        device=arguments.device,
    )
    print_summary(datadir, prepare(request))


def fetch_missing(csd_dir: Path, dataset: Any) -> None:
    """Download the sequences that `csd_dir` lacks."""
    from data.csd import check_csd
    from data.download import DEFAULT_MIRROR, download

    for source in dataset.sequences.values():
        path = csd_dir / source.name
        if not path.is_file():
            csd_dir.mkdir(exist_ok=True)
            download(f"{DEFAULT_MIRROR}/{source.server_path}", path, check_csd)


def print_summary(datadir: Path, manifest: dict[str, Any]) -> None:
    """Print what came out, and what did not and why."""
    heading(f"{datadir}: ready ({manifest['made_from']['dataset']})")
    rows = [
        [split, count["segments"], count["videos"]] for split, count in manifest["splits"].items()
    ]
    say(table(["split", "segments", "videos"], rows))
    if manifest["left_out"]:
        say("\nLeft out, in rows of the labels file:")
        say(table(["reason", "count"], list(manifest["left_out"].items())))


if __name__ == "__main__":
    run(main)
