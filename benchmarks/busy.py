"""Training on a busy machine: the demo's two epochs beside processes that do nothing but count.

    python -m benchmarks.busy [--beside 0 1 2 4] [--rounds 3]

Whole commands, in seconds: as the program waits by itself, with
threads that spin as OpenMP has them do by default, with OMP_WAIT_POLICY=passive, and with one
thread. The last column is the program's time over the best of the others in its row.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks import record
from benchmarks.record import ROOT

WAYS = {
    "this program": {},
    "spinning": {"GOMP_SPINCOUNT": "30000000000"},  # what OMP_WAIT_POLICY=active means
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
COUNT = "n = 0\nwhile True: n += 1"


@contextmanager
def counting(processes: int) -> Iterator[None]:
    """Have so many processes count until the block ends."""
    counters = [subprocess.Popen([sys.executable, "-c", COUNT]) for _ in range(processes)]
    try:
        yield
    finally:
        for counter in counters:
            counter.kill()
            counter.wait()


def seconds(command: list[str], variables: dict[str, str]) -> float:
    """Return how long a command takes."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, **variables}, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


COLUMNS = {
    "processes beside it": "{beside}",
    **{way: f"{{{way}:.1f}} s" for way in WAYS},
    "this program / best": "{ratio:.2f}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--beside", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3, help="whose median is taken")


def measure(arguments: argparse.Namespace) -> Iterable[record.Row]:
    """Measure row by row, the ways in turn."""
    with tempfile.TemporaryDirectory() as folder:
        python, data = sys.executable, ["--datadir", folder]
        prepare = [python, str(ROOT / "dataset_prep.py"), "--demo", *data]
        command = [python, str(ROOT / "main_msaf.py"), "--train", "--epochs", "2", "--no_save"]
        command += [*data, "--device", "cpu"]
        seconds(prepare, {})
        seconds(command, {})  # compiles the encoder, and warms the page cache
        for beside in arguments.beside:
            with counting(beside):
                rounds = [
                    [seconds(command, variables) for variables in WAYS.values()]
                    for _ in range(arguments.rounds)
                ]
            found = [float(value) for value in np.median(rounds, axis=0)]
            row = dict(zip(WAYS, found, strict=True))
            yield {"beside": beside, **row, "ratio": found[0] / min(found[1:])}


if __name__ == "__main__":
    record.main(__doc__, COLUMNS, add_arguments, measure)
