"""In what precision a model runs, and whether it is compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from system.console import print_line
from system.errors import described


class Compiled:
    """A module under torch.compile; where that fails, the module itself, with a warning.

    It is tried at the first call, backward pass included, so give it no input whose gradients
    must be kept. The trial leaves no trace: buffers (BatchNorm's) and PyTorch's generators stay as
    they were, so that a training that goes on does as if it had not been stopped.
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
        devices = [inputs[0].device] if inputs[0].is_cuda else []
        try:
            with no_sync(), leaving_no_trace(self._module, devices):
                output = compiled(*inputs)
                if output.requires_grad:
                    output.sum().backward()
        # A compiler can fail in any way: none is installed, or it cannot do this device.
        except Exception as error:
            reason = described(error)
            warnings.warn(f"torch.compile failed, running without it ({reason})", stacklevel=2)
            return self._module
        return compiled


@contextmanager
def leaving_no_trace(module: nn.Module, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """After the block, a module's buffers are as they were, and so are PyTorch's generators.

    Gradients are gone; `devices` are those on CUDA whose generators the block may draw from.
    """
    # A buffer may get other values, or another tensor may take its place.
    before = [
        (each._buffers, name, one, one.clone())
        for each in module.modules()
        for name, one in each._buffers.items()
        if one is not None
    ]
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffers, name, one, value in before:
                buffers[name] = one
                if not torch.equal(one, value):  # one that is a view of few values takes none
                    one.copy_(value)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a model runs; `precision` is one of `devices.PRECISIONS`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision != "float32")
