"""Programs killed at random moments, and started again: the end is that of an undisturbed run.

    python -m tests.fuzz.kills [--n 200] [--seed 1]

Half of the kills meet a preparation with text, half a training that saves at each step. A restart
must end well and leave what a run without a kill leaves, bit for bit but for times and speeds.
"""

from __future__ import annotations

import argparse
import json
import mmap
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from data.fetching.demo import write_demo
from data.preparing import moving, pipeline
from data.text import encoder
from system.torch_file import load_torch_file
from tests.fuzz import csd, pickles
from tests.fuzz.__main__ import PREPARE_PICKLE, TRAIN
from tests.fuzz.programs import Command, Room, import_what_runs_import
from utils.training import run, trainer
from utils.training.run_folder import HALF_WRITTEN
from utils.training.saved_state import TrainingSaver

PREPARE = (
    *("dataset_prep", "--datadir", "{out}", "--csd", "{in}", "--bert", "{in}/demo_bert"),
    *("--device", "cpu"),
)
TRAIN_ON = (
    *(*TRAIN, "--epochs", "3", "--device", "cpu"),
    *("--save_every", "1", "--resume", "auto"),
)
CHANGING = ("made_at", "speed", "started", "ended", "samples_per_second", "seconds")
PHASES = ("starting", "arrays", "text", "moving", "training", "saving", "results")
MOST_SECONDS = 300  # of a run that is let end: it may wait for the disk behind others

_phase = mmap.mmap(-1, 1)  # shared with the forks


def telling(owner: Any, name: str, phase: str) -> None:
    """Have a function tell, while it runs, which phase its process is in."""
    function = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        before, _phase[0] = _phase[0], PHASES.index(phase)
        result = function(*arguments, **options)
        _phase[0] = before
        return result

    setattr(owner, name, call)


def tell_phases() -> None:
    """Have the programs tell their phases."""
    telling(pipeline, "_ensure_arrays", "arrays")
    telling(pipeline, "_write_text", "text")
    for module in (moving, pipeline):
        telling(module, "move_into_place", "moving")
    telling(trainer.Trainer, "run", "training")
    for name in ("save_epoch", "save_last"):
        telling(TrainingSaver, name, "saving")
    telling(run, "_write_results", "results")


def without_times(value: Any) -> Any:
    """Return nested dicts and lists without what differs from run to run; tensors as bytes."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in CHANGING}
    if isinstance(value, (list, tuple)):
        return [without_times(item) for item in value]
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


def content_of(path: Path) -> Any:
    """Return what two runs' files have to have in common."""
    if path.suffix == ".pth":
        return without_times(load_torch_file(path, "a checkpoint", ""))
    if path.suffix == ".json" and path.name != "run.json":
        return without_times(json.loads(path.read_text()))
    return path.read_bytes() if path.suffix in (".npy", ".csv") else None


def result_of(room: Room) -> dict[str, Any]:
    """Return all that a run left, by path; pictures, logs and run.json by their names alone.

    What a kill left half written is no result: it goes once nobody has written to it for an hour.
    """
    out = room.folder / "out"
    files = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
    paths = [path for path in files if not HALF_WRITTEN.fullmatch(path.name)]
    found = {str(path.relative_to(out)): content_of(path) for path in paths}
    return {
        name: None if name.endswith("metrics.csv") else content  # with speeds
        for name, content in found.items()
        if "events.out" not in name
    }


def kill_and_restart(
    room: Room, command: Command, expected: dict[str, Any], moment: float
) -> tuple[str | None, str | None]:
    """Return the phase that a kill met, None where it came too late, and what went wrong."""
    _phase[0] = 0
    outcome = room.run(command, most_seconds=moment)
    if outcome.status != -signal.SIGKILL:
        return None, None
    met = PHASES[_phase[0]]
    outcome = room.run(command, MOST_SECONDS)
    if outcome.status != 0:
        return met, f"exit code {outcome.status}\n{outcome.output[-3000:]}"
    found = result_of(room)
    differing = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    return met, f"differ: {differing}" if differing else None


def kill(name: str, files: dict[str, bytes], command: Command, count: int, seed: int, folder: Path):
    """Kill `count` runs of a program; prints a line, and returns how many restarts went wrong."""
    room = Room(folder, files)
    begin = time.monotonic()
    outcome = room.run(command, MOST_SECONDS)
    duration, expected = time.monotonic() - begin, result_of(room)
    assert outcome.status == 0, outcome.output
    rng, met, failed = random.Random(f"{seed}/{name}"), Counter(), 0
    begin = time.monotonic()
    while met.total() < count:
        room = Room(folder, files)
        moment = duration * rng.random() ** 2  # the end, with its pictures, takes long
        phase, fault = kill_and_restart(room, command, expected, moment)
        if phase is not None:
            met[phase] += 1
        if fault is not None:
            failed += 1
            print(f"{name}, killed while {phase}: {fault}", flush=True)
    seconds = time.monotonic() - begin
    phases = ", ".join(f"{met[phase]} {phase}" for phase in PHASES if met[phase])
    print(f"{name}: {count} kills with seed {seed} in {seconds:.0f} s ({phases}), {failed} failed")
    return failed


def main() -> None:
    """Kill what is asked for; exit code 1 when a restart goes wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    encoder._BATCH_SIZE["cpu"] = 1  # more places to be killed at
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bert = write_demo(folder / "demo")
        files = csd.files()
        files |= {f"demo_bert/{path.name}": path.read_bytes() for path in bert.iterdir()}
        import_what_runs_import(folder / "sound", files, [PREPARE])
        rest = folder / "rest"
        content = {pickles.TARGET: pickles.dumped()}
        dataset = import_what_runs_import(rest, content, [PREPARE_PICKLE])
        import_what_runs_import(rest, dataset, [TRAIN_ON])
        tell_phases()
        half = options.n // 2
        failed = kill("preparation", files, PREPARE, half, options.seed, folder / "room")
        rest_of = options.n - half
        failed += kill("training", dataset, TRAIN_ON, rest_of, options.seed, folder / "room")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
