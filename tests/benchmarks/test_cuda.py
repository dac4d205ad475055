"""benchmarks/cuda.py runs all its parts; here on the CPU, in miniature."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.forked_programs import ROOT

COMMAND = [sys.executable, ROOT / "benchmarks" / "cuda.py"]


def test_it_runs_in_miniature():
    """Except the text part, which needs a BERT of full size."""
    parts = ["tests", "evaluation", "ten epochs", "profile"]
    options = ["--device", "cpu", "--small", "--parts", *parts]
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for part in parts:
        assert f"\n| {part} | " in done.stdout
    assert "not measured" not in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_it_ends_with_an_error():
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: PyTorch finds no CUDA device here")
