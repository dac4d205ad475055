"""A float32 linear layer from TF32 products, on GPUs whose TF32 is several times as fast.

Both factors are split into a high and a low part. The three products that count (high by high, high
by low, low by high) add up to a float32 product; low by low is below its rounding. They are one
product of matrices three times as wide. (Ootomo and Yokota, IJHPCA 2022, who show how exact it is.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# Compute capabilities of A100, H100, B200 and B300; elsewhere, TF32 is hardly faster than float32.
_FAST = {(8, 0), (9, 0), (10, 0), (10, 3)}
_BLOCK = 1024  # values that a program splits


def multiplies(x: Tensor) -> bool:
    """Return whether `linear` can take `x`, and is fast there."""
    return x.is_cuda and x.dtype == torch.float32 and _is_fast_on(x.device)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map `(..., d)` to `(..., e)` by a weight `(e, d)`, without gradients."""
    factors = split(x.contiguous()), split(weight.contiguous(), is_weight=True)
    with _tf32_allowed():
        return F.linear(*factors, bias)


def split(x: Tensor, is_weight: bool = False) -> Tensor:
    """Return the parts of a contiguous `x` `(..., d)` side by side, `(..., 3 d)`."""
    from system import tf32_kernel

    parts = x.new_empty(*x.shape[:-1], 3 * x.shape[-1])
    programs = -(-x.numel() // _BLOCK)
    with torch.cuda.device(x.get_device()):  # where Triton starts its kernels
        tf32_kernel.split[(programs,)](x, parts, x.numel(), x.shape[-1], is_weight, _BLOCK)
    return parts


@lru_cache
def _is_fast_on(device: torch.device) -> bool:
    """Return whether a device has fast TF32, and Triton works there: it needs a C compiler."""
    if torch.cuda.get_device_capability(device) not in _FAST:
        return False
    try:
        x = torch.ones(1, 1, device=device)
        return linear(x, x, None).item() == 1
    except Exception:  # Triton raises what its compilers raise
        return False


@contextmanager
def _tf32_allowed() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
