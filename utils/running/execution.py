"""Compilation and precision of a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from system.console import print_line
from system.errors import described


class Compiled:
    """A module under torch.compile; if that fails, the module itself, with a warning.

    The first call tries it, backward pass included: its inputs must have no gradients to keep. The
    trial restores buffers (BatchNorm's) and the states of PyTorch's random generators, so that a
    resumed training gives the same results as one without interruption.
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
        # Some processes may try while others do not, so the trial exchanges no gradients.
        no_sync = getattr(self._module, "no_sync", nullcontext)
        devices = [inputs[0].device] if inputs[0].is_cuda else []
        try:
            with no_sync(), restoring_state(self._module, devices):
                output = compiled(*inputs)
                if output.requires_grad:
                    output.sum().backward()
        # A compiler can fail in any way: none is installed, or it does not support this device.
        except Exception as error:
            reason = described(error)
            warnings.warn(f"torch.compile failed, running without it ({reason})", stacklevel=2)
            return self._module
        return compiled


@contextmanager
def restoring_state(module: nn.Module, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Restore, after the block, a module's buffers and the states of PyTorch's random generators.

    Clears the gradients; `devices` are the CUDA devices whose generators the block may use.
    """
    # The block may change a buffer's values, or replace the buffer by another tensor.
    before = [
        (submodule._buffers, name, buffer, buffer.clone())
        for submodule in module.modules()
        for name, buffer in submodule._buffers.items()
        if buffer is not None
    ]
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffers, name, buffer, value in before:
                buffers[name] = buffer
                # An expanded buffer cannot be written to, and sparse ones cannot be compared.
                if buffer.layout != torch.strided or not torch.equal(buffer, value):
                    buffer.copy_(value)


def fewest_rows(model: nn.Module) -> int:
    """Return how many rows a part of a batch needs: two with BatchNorm, as one has no variance."""
    return 2 if any(isinstance(module, nn.BatchNorm1d) for module in model.modules()) else 1


def count_parts(rows: int, steps: int, fewest: int) -> int:
    """Return the number of parts, up to `steps`, of a batch: each has `fewest` rows or more."""
    return min(steps, max(rows // fewest, 1))


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a model runs; `precision` is one of `devices.PRECISIONS`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision != "float32")
