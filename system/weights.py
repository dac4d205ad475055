"""Whether weights from a file are those of a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor, nn

from system.errors import InputError, shown

_NAMES_SHOWN = 3


def is_state_dict(weights: Any) -> TypeGuard[dict[str, Tensor]]:
    """Tell whether these are tensors by name, one at least."""
    return (
        isinstance(weights, dict)
        and len(weights) > 0
        and all(isinstance(name, str) and isinstance(weights[name], Tensor) for name in weights)
    )


def check_weights(
    model: nn.Module, weights: Any, path: Path | str, what: str | None = None
) -> None:
    """Raise InputError that begins with `path` unless `weights` are numbers that fit `model`.

    It tells which names are missing, unexpected, of another shape or type, or hold NaN or infinity,
    and calls the model `what`, by default by its class.
    """
    if not is_state_dict(weights):
        raise InputError(f"{path}: {shown(weights)} instead of named weights; the file is damaged.")
    expected = model.state_dict()
    both = [name for name in expected if name in weights]
    problems = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in both
            if weights[name].shape != expected[name].shape
        ],
        "of another type": [
            f"{name} {weights[name].dtype} instead of {expected[name].dtype}"
            for name in both
            if weights[name].is_floating_point() != expected[name].is_floating_point()
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise InputError(f"{path} does not fit {what or type(model).__name__}: {listed}.")
    for name, _ in model.named_parameters():
        if not weights[name].isfinite().all():
            raise InputError(f"{path}: {name} holds NaN or infinity; these weights are of no use.")


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
