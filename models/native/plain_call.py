"""Calls that compiled code may answer in a module's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as all_modules

from system.tracing import is_tracing

# PyTorch's hooks on all modules: its own `_has_any_global_hook` is of version 2.9 or later.
_GLOBAL_HOOKS = (
    *(all_modules._global_forward_hooks, all_modules._global_forward_pre_hooks),
    *(all_modules._global_backward_hooks, all_modules._global_backward_pre_hooks),
)

_ALIGNMENT = 64  # bytes

Form = TypeVar("Form", bound="Native")


class Native(nn.Module):
    """A module whose plain calls compiled code answers."""

    threads: int | None  # None: as many as PyTorch has

    @classmethod
    def of(cls: type[Form], module: nn.Module, threads: int | None = None) -> Form:
        """Return the native form of `module`: the same modules, parameters and hooks."""
        native = cls.__new__(cls)
        native.__dict__.update(module.__dict__)
        native.threads = threads
        return native

    @property
    def most_threads(self) -> int:
        """How many threads a call may have."""
        return torch.get_num_threads() if self.threads is None else self.threads


def is_plain_call(*tensors: Tensor) -> bool:
    """Tell whether nobody wants to see, or transform, the operators or modules of a call.

    Its `tensors` have memory: those that stand for several at once have none.
    """
    return all(map(torch._C._has_storage, tensors)) and not (
        torch.compiler.is_compiling()
        or is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
        or any(_GLOBAL_HOOKS)
    )


def may_be_kept(*tensors: Tensor) -> bool:
    """Tell whether a backward pass may keep these tensors, or there will be none.

    A `torch.autograd.Function` cannot keep those that were made in inference mode; PyTorch's
    operators copy them.
    """
    return not (torch.is_grad_enabled() and any(map(torch.is_inference, tensors)))


def grads_by_formula(
    formula: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    is_wanted: Sequence[bool],
    grad_outs: Tensor | Sequence[Tensor],
) -> list[Tensor | None]:
    """Return the gradients of those inputs whose are wanted, through PyTorch's operators.

    One may depend on another: what goes through each of them alone is meant. While gradients are
    enabled, they can be differentiated themselves.
    """
    with torch.enable_grad():
        inputs = [None if x is None else x.view_as(x) for x in inputs]
        outs = formula(*inputs)
    wanted = [x for x in compress(inputs, is_wanted) if x is not None]
    graph = torch.is_grad_enabled()
    found = iter(torch.autograd.grad(outs, wanted, grad_outs, create_graph=graph))
    return [next(found) if wants else None for wants in is_wanted]


def as_new(tensor: Tensor) -> Tensor:
    """Return the tensor laid out, and begun, as new ones are, as compiled code reads it.

    Hooks on tensors that are saved for a backward pass may give them back otherwise.
    """
    is_new = tensor.is_contiguous() and tensor.data_ptr() % _ALIGNMENT == 0
    return tensor if is_new else tensor.clone(memory_format=torch.contiguous_format)
