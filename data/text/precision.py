"""Whether bfloat16 pays on this machine: some processors compute it faster, others do not."""

from __future__ import annotations

import time
from copy import deepcopy

import torch
from torch import Tensor, nn

_ROUNDS = 5
_PAYS = 1.1  # times as fast; less is within what measurements differ


@torch.inference_mode()
def compare_with_float32(layer: nn.Module, batch: Tensor) -> str:
    """Run one layer of a BERT in its own precision and in float32; returns what is faster.

    `batch` `(B, T, d)` is as large as those to come, without padding. Both are warm, and run in
    turn; medians count.
    """
    mask = batch.new_zeros(len(batch), 1, 1, batch.shape[1])
    ways = {"own": (layer, batch, mask)}
    ways["float32"] = (deepcopy(layer).float(), batch.float(), mask.float())
    for run, *inputs in ways.values():
        run(*inputs)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(_ROUNDS):
        for way, (run, *inputs) in ways.items():
            seconds[way].append(_seconds(run, inputs))
    own, float32 = (sorted(taken)[_ROUNDS // 2] for taken in seconds.values())
    return _told(str(batch.dtype).removeprefix("torch."), own, float32)


def _seconds(layer: nn.Module, inputs: list[Tensor]) -> float:
    is_cuda = inputs[0].is_cuda
    if is_cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    layer(*inputs)
    if is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _told(name: str, own: float, float32: float) -> str:
    times = f"a layer takes {1000 * own:.2g} ms, and {1000 * float32:.2g} ms in float32"
    if float32 >= _PAYS * own:
        return f"BERT in {name} is {float32 / own:.1f} times as fast as in float32 here: {times}."
    return (
        f"BERT in {name} does not pay here: {times}, which is finer; --bert_precision float32 "
        "has that."
    )
