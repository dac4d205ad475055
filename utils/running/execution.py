"""In what precision a model runs, and whether it is compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.running.compiled import Compiled


@dataclass(frozen=True)
class Execution:
    """How a model is run; `precision` is one of `system.devices.PRECISIONS`."""

    precision: str = "float32"
    compiles: bool = False  # by torch.compile

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which to run the model."""
        is_mixed = self.precision != "float32"
        return torch.autocast(device.type, torch.bfloat16, enabled=is_mixed)

    def prepared(self, module: nn.Module) -> Callable[..., Tensor]:
        """Return `module`, to be compiled at its first call if that is wanted."""
        return Compiled(module) if self.compiles else module
