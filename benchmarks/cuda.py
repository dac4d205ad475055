"""All measurements that need a GPU, in one command without network, in under ten minutes.

    python benchmarks/cuda.py [--minutes 9] [--parts PART ...] [--json FILE]

Runs the tests that need CUDA; training and evaluation against eager PyTorch; text features against
pytorch_pretrained_bert one sentence at a time; ten epochs on a made-up CMU-MOSEI; and a profile of
training steps. Each part is a separate process; if one fails, or has no time left, its row says
so, and the others still run. `--device cpu --small` runs all parts in miniature.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

sys.path[:1] = [str(Path(__file__).parent.parent)]  # or PyTorch takes this file for NVIDIA's `cuda`

import torch

from benchmarks import record, train
from benchmarks.record import ROOT, Row
from benchmarks.sides import Case, Setting, fast_model, write_split
from models.checkpoint import read_checkpoint

SPLITS = {"train": 16_322, "val": 1_871, "test": 4_659}
CASES = {  # an evaluation covers the whole test split, a training a part of an epoch
    "train": ["50@16x30", "50@128x8", "50@1024x3"],
    "evaluate": ["50@16x291", "50@128x36", "50@1024x5"],
}
COLUMNS = {"part": "{part}", "what": "{what}", "found": "{found}", "goal": "{goal}"}
_KINDS = {  # of kernels, by regular expressions for their names
    "arithmetic": r"gemm|gemv|cutlass|lstm|rnn|conv|attention|dot",
    "memory moved": r"mem(cpy|set)|copy|cat|fill|transpose|elementwise|index|gather",
}


class Command:
    """Runs commands until the time of all is used up."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device, self.is_small = arguments.device, arguments.small
        self._end = time.monotonic() + 60 * arguments.minutes

    def run(self, *command: object) -> str:
        """Return what a command prints; raises RuntimeError with its last line."""
        limit = self._end - time.monotonic()
        if limit < 1:
            raise RuntimeError("no time was left")
        words = [sys.executable, *map(str, command)]
        try:
            done = subprocess.run(
                words, cwd=ROOT, capture_output=True, text=True, timeout=limit, errors="replace"
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError("the time was up") from error
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise RuntimeError(f"exit code {done.returncode}: {last[:150]}")
        return done.stdout

    def rows(self, name: str, *options: object) -> list[Row]:
        """Return the rows of a benchmark."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "record.json"
            self.run("-m", f"benchmarks.{name}", "--device", self.device, "--json", path, *options)
            rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
            return rows


def tests(command: Command) -> Iterator[Row]:
    """Run the tests that need CUDA."""
    paths = [
        path
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "from tests.cuda import" in path.read_text(encoding="utf-8")
    ]
    options = ["-m", "cuda", "-p", "no:cacheprovider", "--disable-warnings"]
    options += [] if command.is_small else ["-n", 4]
    output = command.run("-m", "pytest", *options, *paths[: 1 if command.is_small else None])
    yield {"what": "tests", "found": output.strip().splitlines()[-1].strip("= ")}


def steps(name: str, command: Command) -> Iterator[Row]:
    """Compare steps with eager PyTorch's; `name` is train or evaluate."""
    cases = ["5@2x1"] if command.is_small else CASES[name]
    rounds = 1 if command.is_small else 3
    for row in command.rows(name, "--rounds", rounds, "--cases", *cases):
        yield {
            "what": f"{name}, batch {row['batch_size']}",
            "found": f"{row['native_times']:.1f} times as fast ({row['native_ms']:.2f} ms a step, "
            f"eager {row['eager_ms']:.2f} ms; {row['samples_per_s']:,.0f} samples/s)",
            "goal": "20 times" if row["batch_size"] == 16 else "",
        }


def text(command: Command) -> Iterator[Row]:
    """Compare text features with one sentence at a time."""
    count = 2 if command.is_small else 1024
    for row in command.rows("text", "--sentences", count, "--rounds", 1):
        yield {
            "what": f"BERT: {row['way']}",
            "found": f"{row['times']:.1f} times as fast ({row['sentences_per_s']:,.1f} sentences/s,"
            f" largest difference {row['difference']:.1e})",
            "goal": "50 times" if "this program" in row["way"] else "",
        }


def epochs(command: Command) -> Iterator[Row]:
    """Train ten epochs on a made-up CMU-MOSEI, scores and checkpoints included."""
    with tempfile.TemporaryDirectory() as folder:
        for split, segments in SPLITS.items():
            write_split(Path(folder) / split, 8 if command.is_small else segments)
        options = ["--datadir", folder, "--checkpointdir", f"{folder}/run"]
        options += ["--resultdir", f"{folder}/result", "--device"]
        begin = time.monotonic()
        count = 1 if command.is_small else 10
        command.run("main_msaf.py", "--train", "--epochs", count, *options, command.device)
        seconds = time.monotonic() - begin
        training = read_checkpoint(Path(folder) / "run" / "last.pth").details["training"]
        speed = median(epoch["speed"] for epoch in training["epochs"])
    found = f"{seconds:.1f} s (training steps: {speed:,.0f} segments/s)"
    yield {"what": f"{count} epochs", "found": found, "goal": "under 60 s"}


def profile(command: Command) -> Iterator[Row]:
    """Measure the shares of a training step's time."""
    steps = 1 if command.is_small else 20
    output = command.run("benchmarks/cuda.py", "--profile", steps, command.device)
    for kind, share in json.loads(output.splitlines()[-1]).items():
        yield {"what": f"a step of 16: {kind}", "found": share}


def profile_here(steps: int, device: torch.device) -> dict[str, str]:
    """Profile a pass of so many steps in this process; returns the shares of time by kind."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder) / "made_up", 16, device, "float32")
        write_split(setting.folder, steps * 16, lengths=Case("50@16").lengths)
        one_pass = train.program(setting, fast_model(setting))
        one_pass()
        with torch.profiler.profile(activities=activities) as profiler:
            begin = time.perf_counter()
            one_pass()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            whole = 1e6 * (time.perf_counter() - begin)
    spent = dict.fromkeys([*_KINDS, "other kernels", "launches"], 0.0)
    for event in profiler.key_averages():
        if event.key.startswith(("cudaLaunch", "cudaGraphLaunch", "cuLaunch")):
            spent["launches"] += event.self_cpu_time_total
        elif on_device := event.self_device_time_total:
            kinds = [kind for kind, form in _KINDS.items() if re.search(form, event.key, re.I)]
            spent[kinds[0] if kinds else "other kernels"] += on_device
    return {kind: f"{100 * time_spent / whole:.1f} %" for kind, time_spent in spent.items()}


PARTS: dict[str, Callable[[Command], Iterator[Row]]] = {
    "tests": tests,
    "training": partial(steps, "train"),
    "evaluation": partial(steps, "evaluate"),
    "text": text,
    "ten epochs": epochs,
    "profile": profile,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--minutes", type=float, default=9, help="in all (default 9)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", action="store_true", help="in miniature, to test that it runs")


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Run the parts."""
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(
            "error: PyTorch finds no CUDA device here; to test the parts, --device cpu --small"
        )
    command = Command(arguments)
    for name in arguments.parts:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            yield from ({"part": name, "goal": "", **row} for row in PARTS[name](command))
        except RuntimeError as error:
            yield {"part": name, "what": "not measured", "found": str(error), "goal": ""}


if __name__ == "__main__":
    if "--profile" in sys.argv:
        print(json.dumps(profile_here(int(sys.argv[-2]), torch.device(sys.argv[-1]))))
    else:
        record.main(__doc__, COLUMNS, add_arguments, measure)
