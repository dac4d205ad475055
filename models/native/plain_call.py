"""Calls that compiled code may answer in a module's place."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad
from torch.nn.modules import module as all_modules

from models.layers.tracing import is_tracing

# PyTorch's hooks on all modules: its own `_has_any_global_hook` is of version 2.9 or later.
_GLOBAL_HOOKS = (
    *(all_modules._global_forward_hooks, all_modules._global_forward_pre_hooks),
    *(all_modules._global_backward_hooks, all_modules._global_backward_pre_hooks),
)


def is_plain_call() -> bool:
    """Tell whether nobody wants to see, or transform, the operators or modules of a call."""
    return not (
        torch.compiler.is_compiling()
        or is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
        or any(_GLOBAL_HOOKS)
    )
