"""Preparation without BERT: dataset_prep.py against the literal aligner of tests/plain.py.

    python -m benchmarks.prepare CSD_DIR [--alignment segment word]

CSD_DIR holds the four .csd files of CMU-MOSEI. Each side runs in a process of its own, as a
whole: start, reading, aligning and writing the arrays. The literal aligner loads the files
first, as the CMU SDK does, and loops over rows and words in Python.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).parent.parent
from data.fetching.server import MOSEI
from data.formats.folds import read_folds
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


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command; its wall seconds, and its peak resident memory in MB (Linux)."""
    begin, peak = time.perf_counter(), 0.0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            peak = max(peak, int(found[1]) / 1024 if found else 0.0)
            time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    return time.perf_counter() - begin, peak


def main() -> None:
    """Print wall time and peak memory of both, and the ratio of the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csd", type=Path)
    parser.add_argument("--alignment", nargs="+", default=["segment", "word"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--literal", metavar="OUT", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.literal:
        literal(arguments.csd, arguments.alignment[0], arguments.literal)
        return
    for alignment in arguments.alignment:
        fast = [fast_run(arguments.csd, alignment) for _ in range(arguments.rounds)]
        with tempfile.TemporaryDirectory() as out:
            options = [str(arguments.csd), "--alignment", alignment, "--literal", out]
            slow, slow_memory = measure([sys.executable, __file__, *options])
        seconds = float(np.median([run[0] for run in fast]))
        print(
            f"{alignment:<8} dataset_prep.py {seconds:7.2f} s {fast[-1][1]:7.0f} MB   literal "
            f"{slow:7.2f} s {slow_memory:7.0f} MB   {slow / seconds:6.1f} times as fast"
        )


def fast_run(csd: Path, alignment: str) -> tuple[float, float]:
    """Measure dataset_prep.py into a fresh folder."""
    with tempfile.TemporaryDirectory() as out:
        options = ["--datadir", out, "--csd", str(csd), "--alignment", alignment, "--no_bert"]
        return measure([sys.executable, str(ROOT / "dataset_prep.py"), *options])


if __name__ == "__main__":
    main()
