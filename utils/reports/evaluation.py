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
from data.loading.options import LoaderOptions
from data.loading.split import Split, describe_huge_values
from system.console import print_line
from system.errors import InputError
from system.progress import progress
from utils.running.cuda_graph import CudaGraph
from utils.running.execution import Compiled, autocast
from utils.tasks import Scores, Task

_MOST_PARTS = 1000
_TOKENS_AT_ONCE = 6400  # of the longest modality, in a batch that is evaluated


def evaluation_options(options: LoaderOptions, split: Split | DeviceSplit) -> LoaderOptions:
    """Return how splits like `split` are evaluated: in batches of 128 segments of 50 rows, or more.

    Nothing is kept for gradients then, so that there is room for more than a step of training has,
    and large batches take less time. But loading processes, which a split on a device does without,
    hand batches over in shared memory, which can be little: 64 MB in a container.
    """
    if options.num_workers and not isinstance(split, DeviceSplit):
        return options
    longest = max(length for length, _ in split.shapes)
    return replace(options, batch_size=max(options.batch_size, _TOKENS_AT_ONCE // longest))


class Predictor(nn.Module):
    """A model for evaluation: `(B, outputs)` float32 from its inputs, without gradients."""

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
    """Append to `parts`, and join them when they are many: small tensors take much memory."""
    parts.append(part)
    if len(parts) >= _MOST_PARTS:
        parts[:] = [torch.cat(parts)]


def gather_rows(mine: Tensor, n: int, options: LoaderOptions) -> np.ndarray:
    """Put together the values of all processes, `(n, outputs)` float32.

    `mine` are this process's, batch by batch; the result is in the order of the batches.
    """
    shares = options.processes.gather(mine.float().cpu().numpy())
    whole = np.empty((n, shares[0].shape[1]), dtype=np.float32)
    # Whose share each row of a batch is, batch after batch.
    ranks = np.arange(n, dtype=np.int32) % options.batch_size % len(shares)
    for rank, values in enumerate(shares):
        whole[ranks == rank] = values
    return whole


def evaluate(
    model: nn.Module, split: Split | DeviceSplit, task: Task, options: LoaderOptions
) -> Evaluation:
    """Predict every segment of `split` as `predict_split` does, and score the whole."""
    predictions, not_finite = predict_split(model, split, task, options)
    labels = split.labels[:, task.columns]
    return Evaluation(split.ids, labels, predictions, task.score(labels, predictions), not_finite)


@torch.no_grad()
def predict_split(
    model: nn.Module, split: Split | DeviceSplit, task: Task, options: LoaderOptions
) -> tuple[np.ndarray, int]:
    """Predict every segment of `split`, in file order.

    Returns `(N, outputs)` float32, and how many input values were read as 0. `model` is on the
    options' device. Raises InputError when it predicts something that is not a number.
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
        disable=None if options.verbose else True,  # None: where nobody watches
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
        reason = describe_huge_values(split.folder, [row]) or "its weights are of no use."
        raise InputError(
            f"The model predicts {predictions[tuple(wrong[0])]} for segment {split.ids[row]} of "
            f"{split.folder} ({len(wrong)} such predictions): {reason}"
        )
    return predictions, not_finite


def report_not_finite(counts: dict[str, int]) -> None:
    """Say how many values of each split were -inf or NaN, where there were any."""
    found = ", ".join(f"{count:,} in {name}" for name, count in counts.items() if count)
    if found:
        print_line(f"  Values that are -inf or NaN in the files, read as 0: {found}")
