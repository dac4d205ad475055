"""In what precision a model runs, and whether it is compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from system.console import print_line
from system.errors import described


class Compiled:
    """A module under torch.compile; where that fails, the module itself, with a warning.

    It is tried at the first call, backward pass included, so give it no input whose gradients
    must be kept.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._chosen: Callable[..., Tensor] | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Call the module."""
        if self._chosen is None:
            self._chosen = self._try(inputs)
        return self._chosen(*inputs)

    def _try(self, inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
        print_line("Compiling the model with torch.compile, which takes a minute or two")
        compiled = torch.compile(self._module, dynamic=False)
        # Processes may differ in whether they try: no gradients are exchanged for it.
        no_sync = getattr(self._module, "no_sync", nullcontext)
        try:
            with no_sync():
                output = compiled(*inputs)
                if output.requires_grad:
                    output.sum().backward()
                    self._module.zero_grad(set_to_none=True)
        # A compiler can fail in any way: none is installed, or it cannot do this device.
        except Exception as error:
            reason = described(error)
            warnings.warn(f"torch.compile failed, running without it ({reason})", stacklevel=2)
            return self._module
        return compiled


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
