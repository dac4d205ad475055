"""Marks for tests that need a CUDA device; benchmarks/cuda.py runs the tests with these marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import nn

Test = TypeVar("Test", bound=Callable[..., object])

_MARKS = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=_MARKS)]


def needs_cuda(test: Test) -> Test:
    """Mark a test `cuda`; without a CUDA device it is skipped."""
    for mark in _MARKS:
        test = mark(test)
    return test


def on_cuda(model: nn.Module) -> nn.Module:
    """Move a model to the GPU; its inputs and outputs stay on the CPU."""
    device = torch.device("cuda")
    model.register_forward_pre_hook(lambda _, inputs: tuple(x.to(device) for x in inputs))
    model.register_forward_hook(lambda _, inputs, output: output.cpu())
    return model.to(device)
