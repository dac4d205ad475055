"""What benchmarks/train.py and benchmarks/evaluate.py share; benchmarks/scale.py takes part of it.

Both sides run in this process, in turn, round after round; a round is a whole pass over a
made-up split, loading included. The plain side is the literal model of tests/plain.py, eager,
loading one segment at a time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from data.layout import BATCH_FILES, TEXT_FILE
from data.loading.options import LoaderOptions
from data.loading.split import Split
from data.npy import NpyWriter
from data.preparing.split_writer import SplitWriter
from models.native import accelerate
from models.registry import build
from system.devices import PRECISIONS, pick_device
from system.progress import progress
from tests.plain import PlainNHFNet
from utils.run_config import RunConfig
from utils.running.execution import Execution

Value = TypeVar("Value")

_LENGTH, _VISUAL_WIDTH, _AUDIO_WIDTH, _TEXT_WIDTH = 50, 35, 74, 768
_WRITTEN_AT_ONCE = 256  # segments
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    folder: Path  # the made-up split
    batch_size: int
    device: torch.device
    precision: str  # the program's; the plain side is float32

    @property
    def options(self) -> LoaderOptions:
        """How the program loads."""
        return LoaderOptions(self.device, self.batch_size, num_workers=0, verbose=False)

    @property
    def execution(self) -> Execution:
        """How the program runs the model."""
        return Execution(self.precision)

    @property
    def config(self) -> RunConfig:
        """How the program trains."""
        return RunConfig(
            batch_size=self.batch_size,
            epochs=1,
            log_interval=50,
            precision=self.precision,
            save=False,
            verbose=False,
        )


Side = Callable[[], None]  # one pass over the split
Sides = dict[str, Callable[[Setting], Side]]


class PlainDataset(Dataset):
    """One segment at a time, as the arrays hold it."""

    def __init__(self, folder: Path) -> None:
        self.arrays = {kind: np.load(folder / name, "r") for kind, name in BATCH_FILES.items()}

    def __len__(self) -> int:
        return len(self.arrays["label"])

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        inputs = (np.array(self.arrays[kind][row]) for kind in ("visual", "audio", "text"))
        label = torch.tensor(self.arrays["label"][row, 0, :1])
        return *(torch.nan_to_num(torch.from_numpy(x), 0.0, 0.0, 0.0) for x in inputs), label


def plain_loader(setting: Setting, shuffle: bool) -> DataLoader:
    """Collate single segments into batches."""
    return DataLoader(PlainDataset(setting.folder), setting.batch_size, shuffle=shuffle)


def new_model(text_width: int = _TEXT_WIDTH) -> nn.Module:
    """Return the same random NHFNet for both sides."""
    torch.manual_seed(0)
    widths = {"visual": _VISUAL_WIDTH, "audio": _AUDIO_WIDTH, "text": text_width}
    return build("nhfnet", {}, widths, outputs=1)


def new_fast_model(setting: Setting, text_width: int = _TEXT_WIDTH) -> nn.Module:
    """Return that model as the program runs it."""
    model = new_model(text_width)
    if setting.device.type == "cpu":
        accelerate(model)
    return model.to(setting.device)


def new_plain_model() -> PlainNHFNet:
    """Return the literal model with the weights of `new_model`."""
    return PlainNHFNet(new_model().state_dict())


def open_split(setting: Setting) -> Split:
    """Open the made-up split as the program does."""
    return Split(setting.folder)


def run(description: str, sides: Sides) -> None:
    """Parse the command line, measure the two sides and print them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch_size", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--steps", type=int, default=3, help="batches a round (3; on CUDA take 50)")
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for batch_size in arguments.batch_size:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "made_up"
            write_split(folder, batch_size * arguments.steps)
            setting = Setting(folder, batch_size, device, arguments.precision)
            _print(_measure(sides, setting, arguments.rounds), setting, arguments.steps)


def write_split(folder: Path, segments: int, text_width: int = _TEXT_WIDTH) -> None:
    """Write a made-up split of CMU-MOSEI's shape into the new `folder`, block by block."""
    rng = np.random.default_rng(0)
    shapes = {"visual": (_LENGTH, _VISUAL_WIDTH), "audio": (_LENGTH, _AUDIO_WIDTH), "label": (1, 7)}
    text_shape = (_LENGTH, text_width)
    with (
        SplitWriter(folder, shapes) as writer,
        NpyWriter(folder / TEXT_FILE, text_shape) as text,
        progress(total=segments, desc="Making data up", unit="segment") as bar,
    ):
        for begin in range(0, segments, _WRITTEN_AT_ONCE):
            numbers = range(begin, min(begin + _WRITTEN_AT_ONCE, segments))
            arrays = {
                kind: rng.standard_normal((len(numbers), *shape), dtype=np.float32)
                for kind, shape in shapes.items()
            }
            for kind in ("visual", "audio"):
                arrays[kind][:, :5] = 0  # padding
            rows = ((f"made_up[{number}]", "made_up", 0, 1, "made up") for number in numbers)
            writer.write(arrays, rows)
            text.append(rng.standard_normal((len(numbers), *text_shape), dtype=np.float32))
            bar.update(len(numbers))


def split_bytes(segments: int, text_width: int) -> int:
    """Return how much `write_split` writes, to the percent."""
    numbers = _LENGTH * (_VISUAL_WIDTH + _AUDIO_WIDTH + text_width) + 7
    return segments * (4 * numbers + 60)  # a float32, a row of the table


def _measure(sides: Sides, setting: Setting, rounds: int) -> dict[str, tuple[np.ndarray, float]]:
    """Return the seconds of each round and the peak memory in MB, by side."""
    peaks = {name: run_alone(partial(_one_pass, make), setting)[1] for name, make in sides.items()}
    passes = {name: make(setting) for name, make in sides.items()}
    for one_pass in passes.values():  # warm up
        one_pass()
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds):
        for name, one_pass in passes.items():
            seconds[name].append(_seconds(one_pass, setting.device))
    return {name: (np.array(seconds[name]), peaks[name]) for name in sides}


def _seconds(one_pass: Side, device: torch.device) -> float:
    begin = time.perf_counter()
    one_pass()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _one_pass(make: Callable[[Setting], Side], setting: Setting) -> None:
    make(setting)()


def run_alone(function: Callable[[Setting], Value], setting: Setting) -> tuple[Value, float]:
    """Return what `function` gives in a process of its own, and that one's peak memory in MB.

    The memory is CUDA's where the setting's device is a GPU, and resident memory otherwise.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_with_peak_memory, function, setting).result()


def _with_peak_memory(
    function: Callable[[Setting], Value], setting: Setting
) -> tuple[Value, float]:
    result = function(setting)
    if setting.device.type == "cuda":
        return result, torch.cuda.max_memory_allocated(setting.device) / _MEGABYTE
    # Linux: getrusage would count what the parent held when it started this process.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return result, int(status.partition("VmHWM:")[2].split()[0]) * 1024 / _MEGABYTE


def _print(measured: dict[str, tuple[np.ndarray, float]], setting: Setting, steps: int) -> None:
    print(f"batch {setting.batch_size}")
    plain_seconds, plain_memory = measured["plain"]
    for name, (seconds, memory) in measured.items():
        step = np.median(seconds) / steps
        print(
            f"  {name:<13} {step * 1e3:8.1f} ms a step  {setting.batch_size / step:8.0f} samples/s"
            f"  {np.median(plain_seconds / seconds):6.2f} times as fast"
            f"  peak memory {memory:6.0f} MB ({memory / plain_memory:.2f} of the plain one's)"
        )
