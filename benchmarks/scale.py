"""Scale: time per sample and peak memory against the number of segments.

    python -m benchmarks.scale [--segments 10000 40000 160000] [--text_width 768]
                               [--batch_size 16] [--steps 200] [--folder DIR]

Data of CMU-MOSEI's shape is made up, one size at a time, in a folder in DIR that is removed
afterwards. Loading, training and evaluation are each measured on the CPU, as medians of three
separate processes: `steps` batches with rows drawn from the whole file, which is first evicted from
the page cache, because a file larger than memory is not there either. Evaluation takes as many
segments, in the batches that main_msaf.py takes. What is done once for a whole pass (opening the
split, the order of an epoch, the scores at its end) is done for all segments: it counts in full in
the peak memory, and divided by the number of segments in the time. Also draws benchmarks/scale.png.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks import record
from benchmarks.sides import (
    Setting,
    fast_model,
    open_split,
    run_alone,
    split_bytes,
    write_split,
)
from data.loading.batches import batches
from data.loading.split import Batch, Split
from data.npy import Rows
from system import console
from system.errors import InputError
from system.files import atomic_write
from utils.reports.evaluation import evaluate, evaluation_options, gather_rows
from utils.tasks import SENTIMENT
from utils.tasks.sentiment import score
from utils.training.trainer import Trainer

PLOT = Path(__file__).with_suffix(".png")
_PROCESSES = 3
_WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Cost:
    """The cost of one kind of work on a split of one size."""

    milliseconds: float  # per sample
    megabytes: float  # peak resident memory


Costs = dict[str, dict[int, Cost]]  # by kind of work and number of segments


def load(steps: int, setting: Setting) -> float:
    """Return the seconds per sample of only loading batches."""
    split, rng = open_split(setting), np.random.default_rng(0)

    def one_round(steps: int) -> float:
        _evict(setting.folder)
        begin = time.perf_counter()
        order = rng.permutation(len(split))
        for _ in islice(batches(split, order, setting.options), steps):
            pass
        return time.perf_counter() - begin

    return _seconds_a_sample(one_round, steps, setting)


def train(steps: int, setting: Setting) -> float:
    """Return the seconds per sample of training: the last `steps` of an epoch."""
    split = open_split(setting)
    model = fast_model(setting, split.widths["text"])
    splits = {"train": split}
    trainer = Trainer(model, splits, SENTIMENT, setting.config, setting.options, data={})
    epoch_steps = len(setting.options.rows(np.arange(len(split))))

    def one_round(steps: int) -> float:
        first_step = epoch_steps - steps
        predicted = torch.randn(min(first_step * setting.batch_size, len(split)), 1)
        trainer.state.begin_epoch(trainer.state.epoch + 1)  # each epoch has another order
        trainer.state.step, trainer.state.predicted = first_step, [predicted]
        _evict(setting.folder)
        begin = time.perf_counter()
        trainer.run_pass()
        return time.perf_counter() - begin

    return _seconds_a_sample(one_round, steps, setting)


def predict(steps: int, setting: Setting) -> float:
    """Return the seconds per sample of evaluating as many segments, drawn at random."""
    split, rng = open_split(setting), np.random.default_rng(0)
    model = fast_model(setting, split.widths["text"])
    options = evaluation_options(setting.options, split)

    def one_round(steps: int) -> float:
        begin = time.perf_counter()
        # What an evaluation of all segments does once: start loading, gather and score predictions.
        next(iter(batches(split, None, options)))
        predicted = torch.from_numpy(rng.standard_normal((len(split), 1), dtype=np.float32))
        score(split.labels[:, :1], gather_rows(predicted, len(split), options))
        seconds = time.perf_counter() - begin
        if steps:
            rows = rng.choice(len(split), steps * setting.batch_size, replace=False)
            _evict(setting.folder)
            begin = time.perf_counter()
            evaluate(model, _SomeSegments(split, rows), SENTIMENT, options)
            seconds += time.perf_counter() - begin
        return seconds

    return _seconds_a_sample(one_round, steps, setting)


class _SomeSegments(Split):
    """A split of only the given rows of another one."""

    def __init__(self, split: Split, rows: np.ndarray) -> None:
        vars(self).update(vars(split))
        self._split, self._rows = split, rows
        self.labels = split.labels[rows]

    def __getitem__(self, rows: Rows) -> Batch:
        return self._split[self._rows[rows]]

    def prefetch(self, rows: Rows) -> None:
        self._split.prefetch(self._rows[list(rows)])


def _seconds_a_sample(one_round: Callable[[int], float], steps: int, setting: Setting) -> float:
    """Return a step's seconds per sample, plus a sample's share of what a pass does once."""
    one_round(_WARM_UP_STEPS)
    begin = time.perf_counter()
    segments = len(open_split(setting))
    opening = time.perf_counter() - begin
    once = one_round(0)
    return (one_round(steps) - once) / (steps * setting.batch_size) + (opening + once) / segments


def _evict(folder: Path) -> None:
    """Evict a folder's files from the system's page cache; they must already be on disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


WORK = {"loading": load, "training": train, "evaluation": predict}


COLUMNS = {
    "segments": "{segments:,}",
    **{
        kind: f"{{{kind}_ms:.3f}} ms a sample ({{{kind}_times:.2f}}), "
        f"{{{kind}_mb:.0f}} MB ({{{kind}_memory:.2f}})"
        for kind in WORK
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add, positive = parser.add_argument, console.whole_number(1)
    add("--segments", type=positive, nargs="+", default=[10_000, 40_000, 160_000])
    add("--text_width", type=positive, default=768, help="default 768")
    add("--batch_size", type=positive, default=16, help="default 16")
    add("--steps", type=positive, default=200, help="batches (default 200)")
    add("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where there is room")


def measure(arguments: argparse.Namespace) -> list[record.Row]:
    """Measure each size, and draw the plot."""
    sizes = sorted(set(arguments.segments))
    count = arguments.steps * arguments.batch_size
    if count > sizes[0]:
        raise InputError(f"{count:,} segments in --steps batches, expected at most {sizes[0]:,}")
    _check_free_space(arguments.folder, split_bytes(sizes[-1], arguments.text_width))
    costs: Costs = {name: {} for name in WORK}
    for segments in sizes:
        with tempfile.TemporaryDirectory(prefix="made_up_", dir=arguments.folder) as name:
            setting = Setting(
                Path(name) / "split", arguments.batch_size, torch.device("cpu"), "float32"
            )
            write_split(setting.folder, segments, arguments.text_width)
            os.sync()
            for kind, work in WORK.items():
                costs[kind][segments] = _cost(partial(work, arguments.steps), setting)
    _plot(costs, arguments)
    return [_row(costs, segments, sizes[0]) for segments in sizes]


def _row(costs: Costs, segments: int, smallest: int) -> record.Row:
    """Return one size's costs, and their ratios to those of the smallest size."""
    row: record.Row = {"segments": segments}
    for kind, by_size in costs.items():
        cost, base = by_size[segments], by_size[smallest]
        row[f"{kind}_ms"], row[f"{kind}_mb"] = cost.milliseconds, cost.megabytes
        row[f"{kind}_times"] = cost.milliseconds / base.milliseconds
        row[f"{kind}_memory"] = cost.megabytes / base.megabytes
    return row


def _cost(work: Callable[[Setting], float], setting: Setting) -> Cost:
    measured = [run_alone(work, setting) for _ in range(_PROCESSES)]
    seconds, megabytes = np.median(measured, axis=0)
    return Cost(float(1e3 * seconds), float(megabytes))


def _check_free_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    message = f"{needed / 1e9:,.1f} GB are needed in {folder}, {free / 1e9:,.1f} GB are free"
    if free < 1.02 * needed:
        raise InputError(f"{message}; give another --folder, or fewer --segments.")
    console.print_line(message)


def _plot(costs: Costs, arguments: argparse.Namespace) -> None:
    """Draw time and memory against the number of segments."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for kind, by_size in costs.items():
        sizes = list(by_size)
        left.plot(sizes, [cost.milliseconds for cost in by_size.values()], "o-", label=kind)
        right.plot(sizes, [cost.megabytes for cost in by_size.values()], "o-", label=kind)
    left.set(yscale="log", ylabel="ms a sample", title="Time")
    right.set(ylabel="peak resident memory (MB)", title="Memory")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="segments in the file")
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(costs))
    largest = split_bytes(max(arguments.segments), arguments.text_width) / 1e9
    figure.suptitle(
        f"Made-up data, up to {largest:,.1f} GB, text {arguments.text_width} wide, batches of "
        f"{arguments.batch_size}, {torch.get_num_threads()} CPU threads"
    )
    with atomic_write(PLOT) as temporary:
        figure.savefig(temporary, dpi=120)


if __name__ == "__main__":
    console.run(partial(record.main, __doc__, COLUMNS, add_arguments, measure))
