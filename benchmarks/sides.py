"""What benchmarks/train.py and benchmarks/evaluate.py share; benchmarks/scale.py also uses it.

Three sides run in one process, in turn, round after round; a round is a whole pass over a made-up
split, loading included. The sides are benchmarks/eager.py, which loads one segment at a time, this
program with PyTorch's operators, and this program with its C++ encoders and LSTMs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.eager import EagerNHFNet
from benchmarks.record import Row
from data.layout import BATCH_FILES, TEXT_FILE
from data.loading.options import LoaderOptions
from data.loading.split import Split
from data.npy import NpyWriter
from data.preparing.split_writer import SplitWriter
from models.native import accelerate
from models.registry import build
from system.devices import PRECISIONS, pick_device
from system.processes import SINGLE_PROCESS
from system.progress import progress
from utils.run_config import RunConfig
from utils.running.setup import make_options

Value = TypeVar("Value")
Lengths = dict[str, int]  # rows of a segment, by modality

_WIDTHS = {"visual": 35, "audio": 74, "text": 768}
ALIGNED: Lengths = {"visual": 50, "audio": 50, "text": 50}
_BLOCK_SIZE = 256  # segments
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Setting:
    """The data, the device and the precision of a measurement."""

    folder: Path  # the made-up split
    batch_size: int
    device: torch.device
    precision: str  # the program's; the eager side is float32

    @property
    def options(self) -> LoaderOptions:
        """The program's options for loading."""
        return make_options(self.config, SINGLE_PROCESS)

    @property
    def config(self) -> RunConfig:
        """The program's run configuration."""
        return RunConfig(
            device=str(self.device),
            batch_size=self.batch_size,
            epochs=1,
            log_interval=50,
            precision=self.precision,
            save=False,
            verbose=False,
        )


OnePass = Callable[[], None]  # over the split
Program = Callable[[Setting, nn.Module], OnePass]
Side = Callable[[Setting], OnePass]


class OneSegment(Dataset):
    """A dataset that reads one segment at a time from the arrays."""

    def __init__(self, folder: Path) -> None:
        self.arrays = {kind: np.load(folder / name, "r") for kind, name in BATCH_FILES.items()}

    def __len__(self) -> int:
        return len(self.arrays["label"])

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        inputs = (np.array(self.arrays[kind][row]) for kind in ("visual", "audio", "text"))
        label = torch.tensor(self.arrays["label"][row, 0, :1])
        return *(torch.nan_to_num(torch.from_numpy(x), 0.0, 0.0, 0.0) for x in inputs), label


def one_at_a_time(setting: Setting, shuffle: bool) -> DataLoader:
    """Collate single segments into batches."""
    return DataLoader(OneSegment(setting.folder), setting.batch_size, shuffle=shuffle)


def new_model(text_width: int = _WIDTHS["text"]) -> nn.Module:
    """Return the same random NHFNet for all sides."""
    torch.manual_seed(0)
    return build("nhfnet", {}, _WIDTHS | {"text": text_width}, outputs=1)


def fast_model(setting: Setting, text_width: int = _WIDTHS["text"]) -> nn.Module:
    """Return the model of `new_model` as the program runs it."""
    return accelerate(new_model(text_width), device=setting.device).to(setting.device)


def eager_model(setting: Setting) -> EagerNHFNet:
    """Return the eager model with the weights of `new_model`."""
    model = EagerNHFNet()
    model.load_state_dict(new_model().state_dict())
    return model.to(setting.device)


def open_split(setting: Setting) -> Split:
    """Open the made-up split as the program does."""
    return Split(setting.folder)


# A pass over CMU-MOSEI has 1,020 steps of 16, so the work done once a pass hardly counts. Longer
# segments in larger batches do not fit into a laptop's memory.
CASES = ("50@16x12", "50@128", "500/375@16")


class Case:
    """A case from `ROWS@BATCH` or `ROWS@BATCHxSTEPS`.

    ROWS are those of audio and visual, "500/375" or one number for both; BATCH is the batch size,
    STEPS the number of batches a round.
    """

    def __init__(self, text: str) -> None:
        self.rows, _, batches = text.partition("@")
        batch, _, steps = batches.partition("x")
        self.batch_size, self.steps = int(batch), int(steps or 3)
        audio, _, visual = self.rows.partition("/")
        self.lengths: Lengths = {"audio": int(audio), "visual": int(visual or audio), "text": 50}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of both benchmarks."""
    add = parser.add_argument
    cases = "rows of audio/visual, a batch, and batches a round (3; on CUDA take more)"
    default = list(map(Case, CASES))
    add("--cases", type=Case, nargs="+", default=default, metavar="ROWS@BATCHxSTEPS", help=cases)
    add("--rounds", type=int, default=7, help="default 7")
    add("--device", default="cpu")
    add("--precision", choices=PRECISIONS, default=PRECISIONS[0])


COLUMNS = {
    "rows of audio/visual": "{rows}",
    "batch": "{batch_size}",
    "eager PyTorch": "{eager_ms:.1f} ms, {eager_mb:.0f} MB",
    "this program without C++": "{plain_ms:.1f} ms, {plain_mb:.0f} MB",
    "times as fast": "{plain_times:.2f}",
    "this program": "{native_ms:.1f} ms, {native_mb:.0f} MB",
    "times as fast as eager": "{native_times:.2f}",
    "samples/s": "{samples_per_s:.0f}",
}


def measure(eager: Side, program: Program, arguments: argparse.Namespace) -> Iterable[Row]:
    """Measure the three sides in each case."""
    device = pick_device(arguments.device)
    sides = {"eager": eager, "native": partial(_with_model, program, is_native=True)}
    if device.type == "cpu":  # the C++ code runs on CPUs only
        sides["plain"] = partial(_with_model, program, is_native=False)
    for case in arguments.cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "made_up"
            setting = Setting(folder, case.batch_size, device, arguments.precision)
            write_split(folder, case.batch_size * case.steps, lengths=case.lengths)
            row: Row = {"rows": case.rows, "batch_size": case.batch_size}
            yield row | _measure_costs(sides, setting, case.steps, arguments.rounds)


def _with_model(program: Program, setting: Setting, is_native: bool) -> OnePass:
    return program(setting, (fast_model if is_native else _moved_model)(setting))


def _moved_model(setting: Setting) -> nn.Module:
    return new_model().to(setting.device)


def _measure_costs(sides: dict[str, Side], setting: Setting, steps: int, rounds: int) -> Row:
    peaks = {name: run_alone(partial(_one_pass, side), setting)[1] for name, side in sides.items()}
    passes = {name: side(setting) for name, side in sides.items()}
    for one_pass in passes.values():  # warm up
        one_pass()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in progress(range(rounds), desc="Rounds", unit="round"):
        for name, one_pass in passes.items():
            seconds[name].append(_seconds(one_pass, setting.device))
    row: Row = {"samples_per_s": len(open_split(setting)) / np.median(seconds["native"])}
    for name in sides:
        ratios = np.array(seconds["eager"]) / np.array(seconds[name])
        row[f"{name}_ms"] = 1e3 * float(np.median(seconds[name])) / steps
        row[f"{name}_times"] = float(np.median(ratios))
        row[f"{name}_mb"] = peaks[name]
    return row


def write_split(
    folder: Path,
    segments: int,
    text_width: int = _WIDTHS["text"],
    lengths: Lengths = ALIGNED,
) -> None:
    """Write a made-up split of CMU-MOSEI's shape into the new `folder`, block by block."""
    rng = np.random.default_rng(0)
    widths = _WIDTHS | {"text": text_width}
    shapes = {kind: (lengths[kind], widths[kind]) for kind in ("visual", "audio")}
    shapes["label"] = (1, 7)
    text_shape = (lengths["text"], text_width)
    with (
        SplitWriter(folder, shapes) as writer,
        NpyWriter(folder / TEXT_FILE, text_shape) as text,
        progress(total=segments, desc="Making data up", unit="segment") as bar,
    ):
        for first in range(0, segments, _BLOCK_SIZE):
            numbers = range(first, min(first + _BLOCK_SIZE, segments))
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
    """Return how many bytes `write_split` writes for aligned segments, within one percent."""
    widths = _WIDTHS | {"text": text_width}
    numbers = sum(ALIGNED[kind] * widths[kind] for kind in widths) + 7
    return segments * (4 * numbers + 60)  # float32 arrays, and a row of the segment table


def _seconds(one_pass: OnePass, device: torch.device) -> float:
    begin = time.perf_counter()
    one_pass()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _one_pass(side: Side, setting: Setting) -> None:
    side(setting)()


def run_alone(function: Callable[[Setting], Value], setting: Setting) -> tuple[Value, float]:
    """Run `function` in a separate process; returns its result and the peak memory in MB.

    If the setting's device is a GPU, it runs in this process, and the memory is the GPU's.
    """
    if setting.device.type == "cuda":
        before = torch.cuda.memory_allocated(setting.device)
        torch.cuda.reset_peak_memory_stats(setting.device)
        result = function(setting)
        return result, (torch.cuda.max_memory_allocated(setting.device) - before) / _MEGABYTE
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_with_peak_memory, function, setting).result()


def _with_peak_memory(
    function: Callable[[Setting], Value], setting: Setting
) -> tuple[Value, float]:
    result = function(setting)
    # On Linux, getrusage would include the parent's memory at the start of this process.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return result, int(status.partition("VmHWM:")[2].split()[0]) * 1024 / _MEGABYTE
