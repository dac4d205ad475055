"""oneDNN's float32 linear layer on a CPU: on AMD processors, MKL takes twice as long."""

from __future__ import annotations

import torch
from torch import Tensor


def multiplies(x: Tensor) -> bool:
    """Return whether `linear` can take `x`."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    is_built_in: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_built_in and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    """Map `(..., d)` to `(..., e)` without gradients; `then` is "none" or "gelu"."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")
    return result
