"""Token embeddings: scaled, with sinusoidal positions.

Shapes: B batch, T tokens, d width.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from system.tracing import is_tracing


@lru_cache(maxsize=32)
def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Return the position vectors of positions 1..`length`, shape `(length, width)`.

    Sines fill the first half of the channels and cosines the second; they do not interleave.
    """
    half = width // 2
    channel = torch.arange(half, dtype=torch.float32, device=device)
    frequency = torch.exp(channel * (-math.log(10000) / (half - 1)))
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def embed(x: Tensor) -> Tensor:
    """Scale the tokens by sqrt(d) and add their positions, `(B, T, d)` to `(B, T, d)`.

    A token whose first channel is exactly 0 gets no position: the released code treats it as
    padding, and trained models depend on that.
    """
    _, length, width = x.shape
    # Without the cache: torch.compile then makes the table a constant; in other traces, whose
    # lengths are tensors, the table depends on the length.
    is_traced = torch.compiler.is_compiling() or is_tracing()
    table = sinusoids.__wrapped__ if is_traced else sinusoids
    position = table(length, width, x.device).to(x.dtype)
    return math.sqrt(width) * x + position * (x[..., :1] != 0)
