"""Checking whether weights from a file fit a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from system.errors import InputError, first_names, shown

_NEVER_CONVERTED = {getattr(torch, "float4_e2m1fn_x2", None)}  # which PyTorch 2.8 brought


def is_state_dict(weights: Any) -> TypeGuard[dict[str, Tensor]]:
    """Return whether `weights` is a non-empty dict of tensors by name."""
    return (
        isinstance(weights, dict)
        and len(weights) > 0
        and all(isinstance(name, str) and isinstance(weights[name], Tensor) for name in weights)
    )


def check_weights(
    model: nn.Module, weights: Any, path: Path | str, label: str | None = None
) -> None:
    """Raise InputError that begins with `path` unless `weights` are numbers that fit `model`.

    It lists the names that are missing, unexpected, of another shape or type, or that hold NaN or
    infinity in the model's type. It calls the model `label`, by default its class.
    """
    if not is_state_dict(weights):
        raise InputError(f"{path}: {shown(weights)} instead of named weights; the file is damaged.")
    expected = model.state_dict()
    common = [name for name in expected if name in weights]
    problems = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in common
            if weights[name].shape != expected[name].shape
        ],
        "of another type": [
            f"{name} {weights[name].dtype} instead of {expected[name].dtype}"
            for name in common
            if weights[name].is_floating_point() != expected[name].is_floating_point()
            or weights[name].dtype in _NEVER_CONVERTED
        ],
    }
    if any(problems.values()):
        listed = [f"{kind}: {first_names(names)}" for kind, names in problems.items() if names]
        label = label or type(model).__name__
        raise InputError(f"{path} does not fit {label}: {'; '.join(listed)}.")
    for name, _ in model.named_parameters():
        if name not in expected:  # a state dict may leave out a frozen one
            continue
        # In the model's type: float64 has larger numbers, and some float8 no `isfinite`.
        dtype = expected[name].dtype
        if not weights[name].to(dtype).isfinite().all():
            raise InputError(
                f"{path}: {name} holds NaN, infinity or a number too large for {dtype}; these "
                "weights cannot be used."
            )
