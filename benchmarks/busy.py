"""Training on a busy machine: two epochs of the demo, beside processes that use a CPU core each.

    python -m benchmarks.busy [--beside 0 1 2 4] [--rounds 3]

Measures whole commands, in seconds: with the program's own setting of how threads wait, with
threads that spin as by OpenMP's default, with OMP_WAIT_POLICY=passive, and with one thread. The
last column is the program's time divided by the best of the others in its row.
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

ENVIRONMENTS = {  # the variables that each column sets
    "this program": {},
    "spinning": {"GOMP_SPINCOUNT": "30000000000"},  # what OMP_WAIT_POLICY=active means
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY_LOOP = "n = 0\nwhile True: n += 1"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run `count` processes in a busy loop until the block ends."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(command: list[str], variables: dict[str, str]) -> float:
    """Return how many seconds a command takes with these environment variables."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, **variables}, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


COLUMNS = {
    "processes beside it": "{beside}",
    **{name: f"{{{name}:.1f}} s" for name in ENVIRONMENTS},
    "this program / best": "{ratio:.2f}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--beside", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3, help="whose median is taken")


def measure(arguments: argparse.Namespace) -> Iterable[record.Row]:
    """Measure row by row; each round runs all environments in turn."""
    with tempfile.TemporaryDirectory() as folder:
        python, data = sys.executable, ["--datadir", folder]
        prepare = [python, str(ROOT / "dataset_prep.py"), "--demo", *data]
        command = [python, str(ROOT / "main_msaf.py"), "--train", "--epochs", "2", "--no_save"]
        command += [*data, "--device", "cpu"]
        seconds(prepare, {})
        seconds(command, {})  # compiles the encoder, and warms the page cache
        for beside in arguments.beside:
            with busy_processes(beside):
                rounds = [
                    [seconds(command, variables) for variables in ENVIRONMENTS.values()]
                    for _ in range(arguments.rounds)
                ]
            medians = [float(value) for value in np.median(rounds, axis=0)]
            row = dict(zip(ENVIRONMENTS, medians, strict=True))
            yield {"beside": beside, **row, "ratio": medians[0] / min(medians[1:])}


if __name__ == "__main__":
    record.main(__doc__, COLUMNS, add_arguments, measure)
