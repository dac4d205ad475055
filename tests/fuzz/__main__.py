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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # not where tests import it
    os.environ["HF_HUB_OFFLINE"] = "1"  # a BERT that is missing is not waited for

from data.fetching.demo import write_demo
from data.layout import PIECES_FILE
from tests.fuzz import arrays, checkpoints, csd, pickles
from tests.fuzz.programs import Command, Room, import_what_runs_import

Cases = Callable[[int, int], Iterator[tuple[str, bytes]]]

PREPARE_CSD = (
    *("dataset_prep", "--datadir", "{out}", "--csd", "{in}", "--no_bert"),
    *("--alignment", "segment", "word"),
)
PREPARE_PICKLE = ("dataset_prep", "--datadir", "{out}", "--from", f"{{in}}/{pickles.TARGET}")
PREPARE_TEXT = (*PREPARE_PICKLE, "--bert", "{in}/demo_bert")
CHECK = ("dataset_prep", "--datadir", "{in}", "--check")
PLAN = ("main_msaf", "--datadir", "{in}", "--train", "--dry_run", "--checkpointdir", "{out}")
TRAIN = (
    *("main_msaf", "--datadir", "{in}", "--checkpointdir", "{out}/run", "--resultdir", "{out}"),
    *("--train", "--epochs", "1", "--model", "lf_dnn", "--num_workers", "0"),
    *("--scheduler", "plateau", "--batch_size", "1"),
)
HALFWAY = ("tests.fuzz.halfway", *TRAIN[1:], "--epochs", "2")
ALONG = ("--finetune_bert", "{in}/demo_bert")
EVALUATE = (
    *("main_msaf", "--datadir", "{in}", "--resultdir", "{out}", "--num_workers", "0"),
    *("--checkpoint", f"{{in}}/{checkpoints.TARGET}"),
)
RESUME = (*TRAIN, "--epochs", "2", "--resume", f"{{in}}/{checkpoints.TARGET}")
PREDICT = (*EVALUATE, "--predict", f"{{in}}/{pickles.TARGET}")
ENCODER_COMMANDS = (EVALUATE, (*RESUME, "--finetune_bert"), PREDICT)


@dataclass(frozen=True)
class Kind:
    """One kind of file: sound files, what makes hostile ones, and what is run on them."""

    sound: dict[str, bytes]
    cases: Cases
    commands: tuple[Command, ...]
    slow: tuple[Command, ...] = ()  # on one case in eight
    of_some: Mapping[str, tuple[Command, ...]] = field(default_factory=dict)  # instead, by a name

    def commands_of(self, target: str, what: str, content: bytes) -> tuple[Command, ...]:
        """Return what is run on a case."""
        for name, commands in self.of_some.items():
            if name in f"{target} {what}":
                return commands
        return (*self.commands, *(self.slow if zlib.crc32(content) % 8 == 0 else ()))


KINDS = ("csd", "array", "pickle", "checkpoint")


def kinds(folder: Path) -> dict[str, Kind]:
    """Make the sound files of all kinds; everything that the programs need is imported then."""
    rest = folder / "sound"
    import_what_runs_import(rest, csd.files(), [PREPARE_CSD])
    bert = {f"demo_bert/{path.name}": path.read_bytes() for path in write_demo(folder).iterdir()}
    given = {pickles.TARGET: pickles.dumped(), **bert}
    import_what_runs_import(rest, given, [PREPARE_PICKLE])
    made = import_what_runs_import(rest, given, [PREPARE_TEXT])
    keep = ("train/", "val/", "test/", "dataset.json")
    arrays_of = {name: content for name, content in made.items() if name.startswith(keep)}
    dataset, trained = {**given, **arrays_of}, {}
    for name, options in {"": (), checkpoints.ENCODER: ALONG}.items():
        made = import_what_runs_import(rest, dataset, [(*TRAIN, *options)])
        trained[f"weights{name}"] = made["run/best.pth"]
        made = import_what_runs_import(rest, dataset, [(*HALFWAY, *options)])
        trained[f"a training{name}"] = made["run/last.pth"]
        whole = {**dataset, checkpoints.TARGET: trained[f"a training{name}"]}
        import_what_runs_import(rest, whole, ENCODER_COMMANDS if options else (EVALUATE, RESUME))
    evaluated = {**dataset, checkpoints.TARGET: trained["weights"]}
    import_what_runs_import(rest, evaluated, [CHECK, PLAN])
    return {
        "csd": Kind(csd.files(), csd.cases, (PREPARE_CSD,)),
        "pickle": Kind({}, pickles.cases, (PREPARE_PICKLE,)),
        "array": Kind(
            evaluated,
            partial(arrays.cases, sound=arrays_of),
            (CHECK, PLAN),
            (EVALUATE,),
            {PIECES_FILE: (CHECK, (*TRAIN, *ALONG))},
        ),
        "checkpoint": Kind(
            dataset,
            partial(checkpoints.cases, sound=trained),
            (EVALUATE, RESUME),
            of_some={checkpoints.ENCODER: ENCODER_COMMANDS},
        ),
    }


def fault_of(kind: Kind, folder: Path, target: str, what: str, content: bytes) -> str | None:
    """Run all programs on a case; returns what was wrong, with the output."""
    must_fail = what.startswith("outside: ") and "," not in what
    for command in kind.commands_of(target, what, content):
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
