"""Whether a model is being traced."""

from __future__ import annotations

import torch


def is_tracing() -> bool:
    """Return whether PyTorch is tracing, for instance for an export; sizes are then tensors."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]  # not in its stubs
