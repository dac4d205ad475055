"""An LSTM in full precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LSTM(nn.LSTM):
    """`nn.LSTM` in float32, also under autocast.

    Under autocast, cuDNN would use float16, too narrow for gradients, and oneDNN fails on a CPU
    without bfloat16 arithmetic.
    """

    def forward(  # type: ignore[override]  # torch's takes packed sequences too
        self, input: Tensor, *states: Any
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over `(B, T, inputs)`; return what `nn.LSTM` returns."""
        device = input.device.type
        if not torch.is_autocast_enabled(device):
            return super().forward(input, *states)
        with torch.autocast(device, enabled=False):
            return super().forward(input.float(), *states)
