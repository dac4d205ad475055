"""Preparation without BERT: dataset_prep.py against the literal aligner of tests/plain.py.

    python -m benchmarks.prepare [CSD_DIR] [--alignment segment word]
                                 [--forms plain gzip rounded]

CSD_DIR holds the four .csd files of CMU-MOSEI; without it, 40 made-up videos of 3 minutes are
prepared. Other forms than `plain` are copies of them, compressed as the CMU SDK does it (level 9,
HDF5's own chunks); `rounded` ones have audio and visual features of three decimals, which compress
better. Each side runs in a process of its own, as a whole: start, reading, aligning and writing
the arrays. The literal aligner loads the files first, as the CMU SDK does, and loops over rows and
words in Python. Beside compressed files stands what decompressing the needed chunks takes alone,
from memory into memory, in as many threads as the process may use processors.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from benchmarks import record
from benchmarks.record import ROOT
from data.fetching.server import MOSEI
from data.formats import chunks
from data.formats.folds import read_folds
from data.formats.inflate import inflate
from data.preparing.segments import Lengths, Sequences
from system.cpus import usable_cpus
from tests.csd_files import random_video, write_dataset
from tests.plain import plain_segments, plain_word_segments


def literal(csd: Path, alignment: str, out: Path) -> None:
    """Align with loops, everything in memory."""
    sequences = {kind: load(csd / source.name) for kind, source in MOSEI.sequences.items()}
    align = plain_word_segments if alignment == "word" else plain_segments
    split_of = read_folds(MOSEI.folds)
    arrays: dict[str, list[np.ndarray]] = {"visual": [], "audio": []}
    for video in sorted(sequences["labels"], key=str.encode):
        if video in split_of and all(video in entries for entries in sequences.values()):
            for _, _, visual, audio in align(sequences, video, (50, 50)):
                arrays["visual"].append(visual)
                arrays["audio"].append(audio)
    for kind, rows in arrays.items():
        np.save(out / f"{kind}50.npy", np.stack(rows))
    print(len(rows), "segments")


def load(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Load a whole .csd file."""
    with h5py.File(path) as file:
        data = file[next(iter(file))]["data"]
        return {key: (data[key]["intervals"][:], data[key]["features"][:]) for key in data}


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; its wall seconds, and its peak resident memory in MB (Linux)."""
    begin, peak = time.perf_counter(), 0.0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, **quiet) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            peak = max(peak, int(found[1]) / 1024 if found else 0.0)
            time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    return time.perf_counter() - begin, peak


@contextmanager
def in_form(csd: Path, form: str) -> Iterator[Path]:
    """Give the folder with the files in `form`, one of FORMS."""
    if form == "plain":
        yield csd
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind, source in MOSEI.sequences.items():
            with (
                h5py.File(csd / source.name) as old,
                h5py.File(Path(folder) / source.name, "w") as new,
            ):
                is_rounded = form == "rounded" and kind in ("audio", "visual")
                root = next(iter(old))
                for key, entry in old[root]["data"].items():
                    for name in ("features", "intervals"):
                        values = entry[name][:]
                        if is_rounded and name == "features":
                            values = np.round(values, 3)
                        path = f"{root}/data/{key}/{name}"
                        new.create_dataset(
                            path, data=values, compression="gzip", compression_opts=9
                        )
        yield Path(folder)


def decompressing(csd: Path, alignment: str) -> float:
    """Measure decompressing alone what an alignment needs; seconds."""
    needed: list[tuple[bytes, int]] = []

    def note(content: bytes, size: int) -> bytes | bytearray:
        needed.append((content, size))
        return inflate(content, size)

    chunks.inflate = note
    paths = {kind: csd / source.name for kind, source in MOSEI.sequences.items()}
    with Sequences(MOSEI, paths) as sequences:
        for _ in sequences.segments(read_folds(MOSEI.folds), alignment, Lengths(), Counter()):
            pass
    chunks.inflate = inflate

    def share(first: int) -> None:
        for content, size in needed[first::cpus]:
            inflate(content, size)

    cpus = usable_cpus()
    with ThreadPoolExecutor(cpus) as executor:
        begin = time.perf_counter()
        list(executor.map(share, range(cpus)))
        return time.perf_counter() - begin


FORMS = ("plain", "gzip", "rounded")
COLUMNS = {
    "form": "{form}",
    "alignment": "{alignment}",
    "dataset_prep.py": "{seconds:.2f} s, {memory:.0f} MB",
    "decompressing alone": "{alone}",
    "literal aligner": "{slow:.2f} s, {slow_memory:.0f} MB",
    "times as fast": "{ratio:.1f}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("csd", type=Path, nargs="?", metavar="CSD_DIR")
    parser.add_argument("--alignment", nargs="+", default=["segment", "word"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--literal", metavar="OUT", type=Path, help=argparse.SUPPRESS)


def measure(arguments: argparse.Namespace) -> Iterator[record.Row]:
    """Measure both sides on each form of the files."""
    if arguments.literal:
        literal(arguments.csd, arguments.alignment[0], arguments.literal)
        sys.exit()  # without a table
    with tempfile.TemporaryDirectory() as folder:
        csd = arguments.csd.resolve() if arguments.csd else made_up(Path(folder))
        for form in arguments.forms:
            with in_form(csd, form) as files:
                for alignment in arguments.alignment:
                    yield compare(files, form, alignment, arguments.rounds)


def made_up(folder: Path) -> Path:
    """Write 40 videos of 3 minutes in CMU-MOSEI's shape, of random numbers."""
    rng, videos = np.random.default_rng(0), {}
    split_of = read_folds(MOSEI.folds)
    for split, count in (("train", 30), ("val", 5), ("test", 5)):
        for video in [name for name, own in split_of.items() if own == split][:count]:
            videos[video] = random_video(rng, 180, 25, {"visual": 30, "audio": 100})
    kinds = {kind: {name: own[kind] for name, own in videos.items()} for kind in MOSEI.sequences}
    write_dataset(folder, kinds)
    return folder


def compare(csd: Path, form: str, alignment: str, rounds: int) -> record.Row:
    """Measure both sides on one form of the files."""
    fast = [fast_run(csd, alignment) for _ in range(rounds)]
    seconds = float(np.median([one[0] for one in fast]))
    alone = ""
    if form != "plain":
        bound = float(np.median([decompressing(csd, alignment) for _ in range(rounds)]))
        alone = f"{bound:.2f} s (1 to {seconds / bound:.1f})"
    with tempfile.TemporaryDirectory() as out:
        options = [str(csd), "--alignment", alignment, "--literal", out]
        slow, slow_memory = run([sys.executable, "-m", "benchmarks.prepare", *options])
    return {
        **{"form": form, "alignment": alignment, "seconds": seconds, "memory": fast[-1][1]},
        **{"alone": alone, "slow": slow, "slow_memory": slow_memory, "ratio": slow / seconds},
    }


def fast_run(csd: Path, alignment: str) -> tuple[float, float]:
    """Measure dataset_prep.py into a fresh folder."""
    with tempfile.TemporaryDirectory() as out:
        options = ["--datadir", out, "--csd", str(csd), "--alignment", alignment, "--no_bert"]
        return run([sys.executable, str(ROOT / "dataset_prep.py"), *options])


if __name__ == "__main__":
    record.main(__doc__, COLUMNS, add_arguments, measure)
