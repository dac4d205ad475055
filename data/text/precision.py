"""Measuring whether bfloat16 is faster than float32: on some processors it is not."""

from __future__ import annotations

import time
from copy import deepcopy
from statistics import median

import torch
from torch import Tensor, nn

_ROUNDS = 5
_MIN_SPEEDUP = 1.1  # less is within the measurement error


@torch.inference_mode()
def compare_with_float32(layer: nn.Module, batch: Tensor) -> str:
    """Time one layer of a BERT in its precision and in float32; returns the result as text.

    `batch` `(B, T, d)` has the size of the real batches, without padding. After a warm-up, the
    two precisions run in turn; the medians are compared.
    """
    mask = batch.new_zeros(len(batch), 1, 1, batch.shape[1])
    calls = {"own": (layer, batch, mask)}
    calls["float32"] = (deepcopy(layer).float(), batch.float(), mask.float())
    for run, *inputs in calls.values():
        run(*inputs)
    seconds: dict[str, list[float]] = {precision: [] for precision in calls}
    for _ in range(_ROUNDS):
        for precision, (run, *inputs) in calls.items():
            seconds[precision].append(_time(run, inputs))
    own, float32 = map(median, seconds.values())
    name = str(batch.dtype).removeprefix("torch.")
    times = f"a layer takes {1000 * own:.2g} ms, and {1000 * float32:.2g} ms in float32"
    if float32 >= _MIN_SPEEDUP * own:
        return f"BERT in {name} is {float32 / own:.1f} times as fast as in float32 here: {times}."
    return (
        f"BERT in {name} is not faster here: {times}, which is more exact; use --bert_precision "
        "float32."
    )


def _time(layer: nn.Module, inputs: list[Tensor]) -> float:
    is_cuda = inputs[0].is_cuda
    if is_cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    layer(*inputs)
    if is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin
