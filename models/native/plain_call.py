"""Which calls of a module compiled code may replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as all_modules

from system.tracing import is_tracing

# PyTorch's hooks on all modules; its own `_has_any_global_hook` exists from version 2.9 on.
_GLOBAL_HOOKS = (
    *(all_modules._global_forward_hooks, all_modules._global_forward_pre_hooks),
    *(all_modules._global_backward_hooks, all_modules._global_backward_pre_hooks),
)

_ALIGNMENT = 64  # bytes

NativeModule = TypeVar("NativeModule", bound="Native")


class Native(nn.Module):
    """A module whose plain calls run in compiled code."""

    threads: int | None  # None: as many as PyTorch has

    @classmethod
    def of(cls: type[NativeModule], module: nn.Module, threads: int | None = None) -> NativeModule:
        """Return the native form of `module`, with the same modules, parameters and hooks."""
        native = cls.__new__(cls)
        native.__dict__.update(module.__dict__)
        native.threads = threads
        return native

    @property
    def max_threads(self) -> int:
        """The number of threads that a call may use."""
        return torch.get_num_threads() if self.threads is None else self.threads


def is_plain_call(*tensors: Tensor) -> bool:
    """Return whether nothing observes or transforms the operators or modules of a call.

    Its `tensors` must have memory; the batched tensors of a transform have none.
    """
    return all(map(torch._C._has_storage, tensors)) and not (
        torch.compiler.is_compiling()
        or is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
        or any(_GLOBAL_HOOKS)
    )


def may_be_saved(*tensors: Tensor) -> bool:
    """Return whether these tensors may be saved for a backward pass, or there will be none.

    A `torch.autograd.Function` cannot save tensors made in inference mode; PyTorch's operators copy
    them.
    """
    return not (torch.is_grad_enabled() and any(map(torch.is_inference, tensors)))


def grads_by_formula(
    formula: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    needs_grad: Sequence[bool],
    grad_outs: Tensor | Sequence[Tensor],
) -> list[Tensor | None]:
    """Return the gradients of the inputs that need one, by PyTorch's operators; None for others.

    If one input depends on another, its gradient does not include that dependence. While gradients
    are enabled, the results are differentiable.
    """
    with torch.enable_grad():
        inputs = [None if x is None else x.view_as(x) for x in inputs]
        outs = formula(*inputs)
    sources = [x for x in compress(inputs, needs_grad) if x is not None]
    create_graph = torch.is_grad_enabled()
    grads = iter(torch.autograd.grad(outs, sources, grad_outs, create_graph=create_graph))
    return [next(grads) if needed else None for needed in needs_grad]


def aligned(tensor: Tensor) -> Tensor:
    """Return the tensor contiguous and aligned, as compiled code reads it.

    Hooks on tensors saved for a backward pass may return them in another layout.
    """
    is_aligned = tensor.is_contiguous() and tensor.data_ptr() % _ALIGNMENT == 0
    return tensor if is_aligned else tensor.clone(memory_format=torch.contiguous_format)
