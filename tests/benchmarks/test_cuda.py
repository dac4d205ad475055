"""benchmarks/cuda.py runs all its parts; here on the CPU, in miniature."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from tests.forked_programs import ROOT, run_program, set_up_process

SCRIPT = Path("benchmarks", "cuda.py")
forks = multiprocessing.get_context("fork")


def start_in_forks():
    """Make this process start others as forks, which need not import anything."""
    multiprocessing.get_context = lambda method: forks
    plain_run = subprocess.run

    def run(command, **options):
        is_python = command[0] == sys.executable
        return run_in_fork(command, **options) if is_python else plain_run(command, **options)

    subprocess.run = run


def run_in_fork(command, *, cwd, timeout, **_):
    """Run a Python module or script as `subprocess.run` would, with captured output."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, "out"), Path(folder, "err")]
        process = forks.Process(target=run_python, args=(command[1:], outputs, cwd))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, timeout)
        texts = [path.read_text() for path in outputs]
    return subprocess.CompletedProcess(command, process.exitcode, *texts)


def run_python(arguments, outputs, cwd):
    is_module = arguments[0] == "-m"
    name, *others = arguments[is_module:]
    set_up_process([name, *others], outputs, cwd, os.environ)
    if is_module:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(name, run_name="__main__")


def test_it_runs_in_miniature():
    """Except the text part, which needs a BERT of full size."""
    parts = ["tests", "evaluation", "ten epochs", "profile"]
    options = ["--device", "cpu", "--small", "--parts", *parts]
    done = run_program(SCRIPT, *options, before=start_in_forks)
    assert done.returncode == 0, done.stderr
    for part in parts:
        assert f"\n| {part} | " in done.stdout
    assert "not measured" not in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_it_ends_with_an_error():
    done = subprocess.run([sys.executable, ROOT / SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: PyTorch finds no CUDA device here")
