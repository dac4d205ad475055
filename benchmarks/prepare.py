"""Preparation without BERT: dataset_prep.py against the literal aligner of tests/plain.py.

    python -m benchmarks.prepare [CSD_DIR] [--alignment segment word]
                                 [--forms plain gzip rounded] [--videos 20 330]

CSD_DIR holds the four .csd files of CMU-MOSEI; without it, made-up videos are prepared, of
CMU-MOSEI's mean length: 3,293 are as many as it has, for which a folder on a disk with 20 GB is
wanted (TMPDIR). Other forms than `plain` are copies, compressed as the CMU SDK does it (level 9,
HDF5's own chunks); `rounded` ones have audio and visual features of three decimals, which compress
better. Each side runs in a process of its own, as a whole: start, reading, aligning and writing
the arrays. Memory is that of all its processes, looked at every 20 ms (Linux), and processor time
that of all too. The literal aligner loads the files first, as the CMU SDK does, and loops over rows
and words in Python: it takes part on plain files of up to 60 videos. Beside compressed files stands
what decompressing the needed chunks takes alone, from memory into memory, in as many threads as the
process may use processors.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np

from benchmarks import record
from benchmarks.csd_forms import FORMS, in_form, made_up
from benchmarks.record import ROOT
from data.fetching.server import MOSEI
from data.formats import chunks
from data.formats.csd import ComputationalSequence
from data.formats.folds import read_folds
from data.formats.inflate import inflate
from data.preparing import segments
from data.preparing.segments import ALIGNED_LENGTHS, Sequences
from system.cpus import usable_cpus
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


def run(command: list[str]) -> tuple[float, float, float]:
    """Run a command; its wall and processor seconds, and its processes' peak memory in MB."""
    begin, before, peak = time.perf_counter(), os.times(), 0.0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, **quiet) as process:
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.02)
        taken, after = time.perf_counter() - begin, os.times()
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    return taken, sum(after[2:4]) - sum(before[2:4]), peak  # of children


def memory_of(pid: int) -> float:
    """Return the memory of a process and those that it started, in MB; what they share, once."""
    total, folder = 0.0, Path(f"/proc/{pid}")
    try:
        children = (folder / f"task/{pid}/children").read_text().split()
        for own in (pid, *children):
            rollup = Path(f"/proc/{own}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) / 1024
    except (OSError, TypeError):  # it has ended meanwhile
        return 0.0
    return total


def decompressing(csd: Path, alignment: str, rounds: int) -> float:
    """Measure decompressing alone what an alignment needs; median seconds."""
    needed: list[tuple[bytes, int]] = []

    def note(content: memoryview, size: int) -> bytes | bytearray:
        needed.append((bytes(content), size))
        return inflate(content, size)

    paths = {kind: csd / source.name for kind, source in MOSEI.sequences.items()}
    with (
        patch.object(chunks, "inflate", note),
        patch.object(segments, "map_forked", map),  # what other processes note would be lost
        Sequences(MOSEI, paths) as sequences,
    ):
        for _ in sequences.segments(read_folds(MOSEI.folds), alignment, ALIGNED_LENGTHS, Counter()):
            pass

    def share(first: int) -> None:
        for content, size in needed[first::cpus]:
            inflate(content, size)

    cpus, taken = usable_cpus(), []
    with ThreadPoolExecutor(cpus) as executor:
        for _ in range(rounds):
            begin = time.perf_counter()
            list(executor.map(share, range(cpus)))
            taken.append(time.perf_counter() - begin)
    return float(np.median(taken))


COLUMNS = {
    "videos": "{videos:,}",
    "form": "{form}",
    "alignment": "{alignment}",
    "dataset_prep.py": "{seconds:.2f} s, {memory:.0f} MB",
    "processor time": "{processor:.2f} s",
    "decompressing alone": "{alone}",
    "literal aligner": "{slow}",
    "times as fast": "{ratio}",
}
LITERAL_MOST = 60  # videos


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("csd", type=Path, nargs="?", metavar="CSD_DIR")
    parser.add_argument("--alignment", nargs="+", default=["segment", "word"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--videos", nargs="+", type=int, default=[20, 330], metavar="N")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--literal", metavar="OUT", type=Path, help=argparse.SUPPRESS)


def measure(arguments: argparse.Namespace) -> Iterator[record.Row]:
    """Measure both sides on each form of the files."""
    if arguments.literal:
        literal(arguments.csd, arguments.alignment[0], arguments.literal)
        sys.exit()  # without a table
    for videos in arguments.videos if arguments.csd is None else (None,):
        with tempfile.TemporaryDirectory() as folder:
            csd = arguments.csd.resolve() if videos is None else made_up(Path(folder), videos)
            for form in arguments.forms:
                with in_form(csd, form) as files:
                    for alignment in arguments.alignment:
                        yield compare(files, form, alignment, arguments.rounds)


def compare(csd: Path, form: str, alignment: str, rounds: int) -> record.Row:
    """Measure both sides on one form of the files."""
    fast = np.array([fast_run(csd, alignment) for _ in range(rounds)])
    seconds, processor, _ = np.median(fast, axis=0).tolist()
    with ComputationalSequence(csd / MOSEI.sequences["labels"].name) as labels:
        videos = len(labels.videos)
    alone = slow = ratio = ""
    if form != "plain":
        bound = decompressing(csd, alignment, rounds)
        alone = f"{bound:.2f} s (1 to {seconds / bound:.1f})"
    elif videos <= LITERAL_MOST:
        with tempfile.TemporaryDirectory() as out:
            options = [str(csd), "--alignment", alignment, "--literal", out]
            taken, _, memory = run([sys.executable, "-m", "benchmarks.prepare", *options])
        slow, ratio = f"{taken:.2f} s, {memory:.0f} MB", f"{taken / seconds:.1f}"
    return {
        **{"videos": videos, "form": form, "alignment": alignment, "seconds": seconds},
        **{"processor": processor, "memory": fast[:, 2].max(), "alone": alone},
        **{"slow": slow, "ratio": ratio},
    }


def fast_run(csd: Path, alignment: str) -> tuple[float, float, float]:
    """Measure dataset_prep.py into a fresh folder."""
    with tempfile.TemporaryDirectory() as out:
        options = ["--datadir", out, "--csd", str(csd), "--alignment", alignment, "--no_bert"]
        return run([sys.executable, str(ROOT / "dataset_prep.py"), *options])


if __name__ == "__main__":
    record.main(__doc__, COLUMNS, add_arguments, measure)
