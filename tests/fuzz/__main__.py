"""Hostile files through the real programs.

    python -m tests.fuzz [--n 2000] [--seed 1] [--kinds csd array pickle checkpoint]
    python -m tests.fuzz --case FOLDER

A run on one must end within 30 s and 1 GB, in success or in one line that says what is wrong;
without a traceback, a signal, a file outside the given folders, or what a payload would write.
Cases that fail are kept, and `--case` runs one of them again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch: a fork has no threads

from tests.fuzz import arrays, checkpoints, csd, pickles
from tests.fuzz.programs import Command, Room, import_what_runs_import

Cases = Callable[[int, int], Iterator[tuple[str, bytes]]]

PREPARE_CSD = (
    *("dataset_prep", "--datadir", "{out}", "--csd", "{in}", "--no_bert"),
    *("--alignment", "segment", "word"),
)
PREPARE_PICKLE = ("dataset_prep", "--datadir", "{out}", "--from", f"{{in}}/{pickles.TARGET}")
CHECK = ("dataset_prep", "--datadir", "{in}", "--check")
PLAN = ("main_msaf", "--datadir", "{in}", "--train", "--dry_run", "--checkpointdir", "{out}")
TRAIN = (
    *("main_msaf", "--datadir", "{out}", "--checkpointdir", "{out}/run", "--resultdir", "{out}"),
    *("--train", "--epochs", "1", "--model", "lf_dnn", "--num_workers", "0"),
    *("--scheduler", "plateau", "--batch_size", "1"),
)
HALFWAY = ("tests.fuzz.halfway", *TRAIN[1:], "--overwrite", "--epochs", "2")
EVALUATE = (
    *("main_msaf", "--datadir", "{in}", "--resultdir", "{out}", "--num_workers", "0"),
    *("--checkpoint", f"{{in}}/{checkpoints.TARGET}"),
)
RESUME = (*TRAIN, "--datadir", "{in}", "--epochs", "2", "--resume", f"{{in}}/{checkpoints.TARGET}")


@dataclass(frozen=True)
class Kind:
    """One kind of file: sound files, what makes hostile ones, and what is run on them."""

    sound: dict[str, bytes]
    cases: Cases
    commands: tuple[Command, ...]
    slow: tuple[Command, ...] = ()  # on one case in eight


KINDS = ("csd", "array", "pickle", "checkpoint")


def kinds(folder: Path) -> dict[str, Kind]:
    """Make the sound files of all kinds; everything that the programs need is imported then."""
    rest = folder / "sound"
    import_what_runs_import(rest, csd.files(), [PREPARE_CSD])
    content = {pickles.TARGET: pickles.dumped()}
    made = import_what_runs_import(rest, content, [PREPARE_PICKLE, TRAIN])
    within = import_what_runs_import(rest, content, [PREPARE_PICKLE, HALFWAY])
    trained = {"weights": made["run/best.pth"], "a training": within["run/last.pth"]}
    keep = ("train/", "val/", "test/", "dataset.json", "run/best.pth")
    dataset = {name: content for name, content in made.items() if name.startswith(keep)}
    import_what_runs_import(rest, dataset, [CHECK, PLAN, EVALUATE])
    resumable = {**dataset, checkpoints.TARGET: within["run/last.pth"]}
    import_what_runs_import(rest, resumable, [RESUME])
    changed = {name: content for name, content in dataset.items() if not name.endswith(".pth")}
    return {
        "csd": Kind(csd.files(), csd.cases, (PREPARE_CSD,)),
        "pickle": Kind({}, pickles.cases, (PREPARE_PICKLE,)),
        "array": Kind(dataset, partial(arrays.cases, sound=changed), (CHECK, PLAN), (EVALUATE,)),
        "checkpoint": Kind(dataset, partial(checkpoints.cases, sound=trained), (EVALUATE, RESUME)),
    }


def fault_of(kind: Kind, folder: Path, target: str, what: str, content: bytes) -> str | None:
    """Run all programs on a case; returns what was wrong, with the output."""
    must_fail = what.startswith("outside: ") and "," not in what
    slow = kind.slow if zlib.crc32(content) % 8 == 0 else ()
    for command in (*kind.commands, *slow):
        room = Room(folder, {**kind.sound, target: content})
        outcome = room.run(command)
        fault = room.fault_of(outcome, must_fail)
        if fault:
            return f"{fault}\n{' '.join(command)}\n{outcome.output[-4000:]}"
    return None


def main() -> None:
    """Run what is asked for; exit code 1 when a case fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=100, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--case", type=Path, help="a kept case to run again")
    options = parser.parse_args()
    memory = Path("/dev/shm")  # where the programs need not wait for a disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        known = kinds(Path(folder))
        if options.case:
            name, target, what = (options.case / "case").read_text().split("\n")[:3]
            content = (options.case / "content").read_bytes()
            fault = fault_of(known[name], Path(folder) / "room", target, what, content)
            print(fault or "passed")
            sys.exit(bool(fault))
        failed = sum(
            fuzz(name, known[name], options.n, options.seed, Path(folder) / "room")
            for name in options.kinds
        )
    sys.exit(bool(failed))


def fuzz(name: str, kind: Kind, count: int, seed: int, room: Path) -> int:
    """Run `count` cases of a kind, keep those that fail, print a summary; returns how many do."""
    kept = Path(tempfile.gettempdir()) / "fuzz-failures"
    failed, begin = 0, time.monotonic()
    for index, (described, content) in enumerate(kind.cases(seed, count)):
        target, _, what = described.partition(" ")
        fault = fault_of(kind, room, target, what, content)
        if fault:
            failed += 1
            case = kept / f"{name}-{seed}-{index}"
            shutil.rmtree(case, ignore_errors=True)
            case.mkdir(parents=True)
            (case / "content").write_bytes(content)
            (case / "case").write_text(f"{name}\n{target}\n{what}\n\n{fault}")
            print(f"\r{case}: {fault.splitlines()[0]} ({described[:60]!r})", flush=True)
        if sys.stderr.isatty() or index % 100 == 99:
            print(
                f"\r{name}: {index + 1} of {count}, {failed} failed",
                end="",
                file=sys.stderr,
                flush=True,
            )
    seconds = time.monotonic() - begin
    print(f"\r{name}: {count} cases with seed {seed} in {seconds:.0f} s, {failed} failed")
    return failed


if __name__ == "__main__":
    main()
