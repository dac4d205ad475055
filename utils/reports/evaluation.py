"""Predicting a split and scoring it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from data.loading.batches import batches
from data.loading.on_device import DeviceSplit
from data.loading.options import LoaderOptions, evaluation_batch_size
from data.loading.split import Split, describe_huge_values
from system.console import print_line
from system.errors import InputError
from system.progress import progress
from utils.running.cuda_graph import CudaGraph
from utils.running.execution import Compiled, autocast
from utils.tasks import Scores, Task

_MAX_PARTS = 1000


class NotFinite(InputError):
    """A model predicts values that are not finite numbers."""


def evaluation_options(options: LoaderOptions, split: Split | DeviceSplit) -> LoaderOptions:
    """Return the options for evaluating `split`: batches of `evaluation_batch_size`.

    Without gradients there is memory for larger batches, which take less time. But loading
    processes, which a split on a device does not use, pass batches in shared memory, which can be
    small (64 MB in a container): with them, the batch size stays.
    """
    if options.num_workers and not isinstance(split, DeviceSplit):
        return options
    return replace(options, batch_size=evaluation_batch_size(options.batch_size, split.shapes))


class Predictor(nn.Module):
    """A model for evaluation: returns `(B, outputs)` float32, without gradients."""

    def __init__(self, model: nn.Module, precision: str, options: LoaderOptions) -> None:
        super().__init__()
        self.model = model
        self._precision = precision
        prepared = Compiled(model) if options.compiles else model
        run = partial(self._run, prepared), partial(self._run, model)
        self._predict = CudaGraph(*run, options.share_size)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Predict."""
        (prediction,) = self._predict(*inputs)
        return prediction

    @torch.no_grad()
    def _run(self, forward: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor]:
        with autocast(self._precision, inputs[0].device):
            return (forward(*inputs).float(),)


@dataclass(frozen=True)
class Evaluation:
    """A model's predictions on one split."""

    ids: Sequence[str]
    labels: np.ndarray  # (N, outputs) float32
    predictions: np.ndarray  # (N, outputs) float32
    scores: Scores
    not_finite: int  # input values read as 0


def append_predictions(parts: list[Tensor], part: Tensor) -> None:
    """Append to `parts`, and join them when they are many, as small tensors waste memory."""
    parts.append(part)
    if len(parts) >= _MAX_PARTS:
        parts[:] = [torch.cat(parts)]


def gather_rows(values: Tensor, n: int, options: LoaderOptions) -> np.ndarray:
    """Return the values of all processes, `(n, outputs)` float32, in the order of the batches.

    `values` are those of this process, batch by batch.
    """
    shares = options.processes.gather(values.float().cpu().numpy())
    gathered = np.empty((n, shares[0].shape[1]), dtype=np.float32)
    # The rank of the process that had each row, batch after batch.
    ranks = np.arange(n, dtype=np.int32) % options.batch_size % len(shares)
    for rank, share in enumerate(shares):
        gathered[ranks == rank] = share
    return gathered


def evaluate(
    model: nn.Module, split: Split | DeviceSplit, task: Task, options: LoaderOptions
) -> Evaluation:
    """Predict every segment of `split`, as `predict_split` does, and score the predictions."""
    predictions, not_finite = predict_split(model, split, task, options)
    labels = split.labels[:, task.columns]
    return Evaluation(split.ids, labels, predictions, task.score(labels, predictions), not_finite)


@torch.no_grad()
def predict_split(
    model: nn.Module, split: Split | DeviceSplit, task: Task, options: LoaderOptions
) -> tuple[np.ndarray, int]:
    """Predict every segment of `split`, in file order.

    Returns `(N, outputs)` float32, and how many input values were read as 0. `model` has to be on
    the options' device. Raises NotFinite when a prediction is not a finite number.
    """
    model.eval()
    parts = [torch.empty(0, len(task.outputs), device=options.device)]
    not_finite = 0
    bar = progress(
        batches(split, None, options),
        total=len(options.rows(range(len(split)))),
        desc=f"Predicting {split.folder.name}",
        unit="batch",
        leave=False,
        disable=None if options.verbose else True,  # None hides it without a terminal
    )
    for batch in bar:
        if len(batch.labels):
            inputs = (x.to(options.device, non_blocking=True) for x in batch.inputs)
            append_predictions(parts, model(*inputs))
            not_finite += batch.not_finite
    predictions = gather_rows(torch.cat(parts), len(split), options)
    not_finite = sum(options.processes.gather(not_finite))
    wrong = np.argwhere(~np.isfinite(predictions))
    if len(wrong):
        row = wrong[0][0]
        reason = describe_huge_values(split.folder, [row]) or (
            "its weights are damaged, or training diverged: try a smaller --lr, or --grad_clip."
        )
        raise NotFinite(
            f"The model predicts {predictions[tuple(wrong[0])]} for segment {split.ids[row]} of "
            f"{split.folder} ({len(wrong)} such predictions): {reason}"
        )
    return predictions, not_finite


def report_not_finite(counts: dict[str, int]) -> None:
    """Print how many values of each split were -inf or NaN, if there were any."""
    texts = ", ".join(f"{count:,} in {name}" for name, count in counts.items() if count)
    if texts:
        print_line(f"  Values that are -inf or NaN in the files, read as 0: {texts}")
