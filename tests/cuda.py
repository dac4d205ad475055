"""Tests that need a CUDA device: benchmarks/cuda.py runs them by their mark."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch

Test = TypeVar("Test", bound=Callable[..., object])


def needs_cuda(test: Test) -> Test:
    """Mark a test `cuda`, and skip it without a device."""
    is_missing = not torch.cuda.is_available()
    return pytest.mark.cuda(pytest.mark.skipif(is_missing, reason="needs a CUDA device")(test))
