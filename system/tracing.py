"""Whether a model is being traced."""

from __future__ import annotations

import torch


def is_tracing() -> bool:
    """Tell whether PyTorch traces what is called, for instance to export it: sizes are tensors."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]  # not in its stubs
