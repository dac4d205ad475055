"""Preparation without BERT: dataset_prep.py against the CMU SDK, where it can be imported.

    python -m benchmarks.prepare [CSD_DIR] [--alignment segment word]
                                 [--forms plain gzip rounded] [--videos 20 330]

CSD_DIR holds the four .csd files of CMU-MOSEI. Without it, made-up videos of its mean length are
prepared; CMU-MOSEI has 3,293, for which TMPDIR needs 20 GB. Forms other than `plain` are copies,
compressed as by the CMU SDK (level 9, HDF5's own chunks); in `rounded` ones, audio and visual
features have three decimals, which compress better. Each side runs as a whole in a separate
process: start, reading, aligning and writing the arrays; the SDK, described in benchmarks/sdk.py,
once each on up to --sdk_videos. Memory, measured every 20 ms (Linux), and processor time are those
of all its processes. For compressed files, the table also has the time to decompress only the
needed chunks, from memory to memory, with one thread for each usable processor.
"""

from __future__ import annotations

import argparse
import importlib.util
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

import numpy as np

from benchmarks import record
from benchmarks.csd_forms import FORMS, in_form, write_made_up
from benchmarks.record import ROOT
from data.fetching.server import MOSEI
from data.formats import chunks
from data.formats.csd import ComputationalSequence
from data.formats.folds import read_folds
from data.formats.inflate import inflate
from data.preparing import segments
from data.preparing.segments import ALIGNED_LENGTHS, cut_videos, open_sequences
from system.cpus import usable_cpus


def run(command: list[str]) -> tuple[float, float, float]:
    """Run a command; returns its wall and CPU seconds, and its processes' peak memory in MB."""
    begin, before, peak = time.perf_counter(), os.times(), 0.0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, **quiet) as process:
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.02)
        seconds, after = time.perf_counter() - begin, os.times()
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    return seconds, sum(after[2:4]) - sum(before[2:4]), peak  # 2 and 3: times of child processes


def memory_of(pid: int) -> float:
    """Return the memory of a process and its children in MB; shared memory counts once."""
    total, folder = 0.0, Path(f"/proc/{pid}")
    try:
        children = (folder / f"task/{pid}/children").read_text().split()
        for process in (pid, *children):
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) / 1024
    except (OSError, TypeError):  # a process has ended in the meantime
        return 0.0
    return total


def decompressing(csd: Path, alignment: str, rounds: int) -> float:
    """Return the median seconds of only decompressing the chunks that an alignment needs."""
    needed: list[tuple[bytes, int]] = []

    def record_chunk(content: memoryview, size: int) -> bytes | bytearray:
        needed.append((bytes(content), size))
        return inflate(content, size)

    paths = {kind: csd / source.name for kind, source in MOSEI.sequences.items()}
    with (
        patch.object(chunks, "inflate", record_chunk),
        patch.object(segments, "map_forked", map),  # other processes would keep their own list
        open_sequences(paths) as sequences,
    ):
        split_of = read_folds(MOSEI.folds)
        for _ in cut_videos(sequences, split_of, alignment, ALIGNED_LENGTHS, Counter()):
            pass

    def inflate_share(first: int) -> None:
        for content, size in needed[first::cpus]:
            inflate(content, size)

    cpus, rounds_seconds = usable_cpus(), []
    with ThreadPoolExecutor(cpus) as executor:
        for _ in range(rounds):
            begin = time.perf_counter()
            list(executor.map(inflate_share, range(cpus)))
            rounds_seconds.append(time.perf_counter() - begin)
    return float(np.median(rounds_seconds))


COLUMNS = {
    "videos": "{videos:,}",
    "form": "{form}",
    "alignment": "{alignment}",
    "dataset_prep.py": "{seconds:.2f} s, {memory:.0f} MB",
    "processor time": "{processor:.2f} s",
    "decompressing alone": "{alone}",
    "CMU SDK": "{sdk}",
    "times as fast": "{ratio}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("csd", type=Path, nargs="?", metavar="CSD_DIR")
    parser.add_argument("--alignment", nargs="+", default=["segment", "word"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--videos", nargs="+", type=int, default=[20, 330], metavar="N")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sdk_videos", type=int, default=330, metavar="N")


def measure(arguments: argparse.Namespace) -> Iterator[record.Row]:
    """Measure both sides on each form of the files."""
    for videos in arguments.videos if arguments.csd is None else (None,):
        with tempfile.TemporaryDirectory() as folder:
            csd = arguments.csd.resolve() if videos is None else write_made_up(Path(folder), videos)
            for form in arguments.forms:
                with in_form(csd, form) as files:
                    for alignment in arguments.alignment:
                        yield compare(files, form, alignment, arguments)


def compare(csd: Path, form: str, alignment: str, arguments: argparse.Namespace) -> record.Row:
    """Measure both sides on one form of the files."""
    fast = np.array([fast_run(csd, alignment) for _ in range(arguments.rounds)])
    seconds, processor, _ = np.median(fast, axis=0).tolist()
    with ComputationalSequence(csd / MOSEI.sequences["labels"].name) as labels:
        videos = len(labels.videos)
    alone = sdk = ratio = ""
    if form != "plain":
        bound = decompressing(csd, alignment, arguments.rounds)
        alone = f"{bound:.2f} s (1 to {seconds / bound:.1f})"
    if importlib.util.find_spec("mmsdk") and videos <= arguments.sdk_videos:
        sdk_seconds, _, memory = sdk_run(csd, alignment)
        sdk, ratio = f"{sdk_seconds:.1f} s, {memory:,.0f} MB", f"{sdk_seconds / seconds:.1f}"
    row = {"videos": videos, "form": form, "alignment": alignment, "seconds": seconds}
    row |= {"processor": processor, "memory": fast[:, 2].max(), "alone": alone}
    return row | {"sdk": sdk, "ratio": ratio}


def fast_run(csd: Path, alignment: str) -> tuple[float, float, float]:
    """Measure dataset_prep.py into a fresh folder."""
    with tempfile.TemporaryDirectory() as out:
        options = ["--datadir", out, "--csd", str(csd), "--alignment", alignment, "--no_bert"]
        return run([sys.executable, str(ROOT / "dataset_prep.py"), *options])


def sdk_run(csd: Path, alignment: str) -> tuple[float, float, float]:
    """Measure the CMU SDK."""
    with tempfile.TemporaryDirectory() as out:
        return run([sys.executable, "-m", "benchmarks.sdk", str(csd), alignment, out])


if __name__ == "__main__":
    record.main(__doc__, COLUMNS, add_arguments, measure)
