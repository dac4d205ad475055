"""The two programs in forks of a process that has imported them: a start costs milliseconds."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

# What the programs import when they need it.
import h5py  # noqa: F401
import pytorch_pretrained_bert  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch.utils.data  # noqa: F401

import models.registry  # noqa: F401
import utils.reports.evaluate_checkpoint
import utils.studies.tune
import utils.studies.worker
import utils.training.run  # noqa: F401

ROOT = Path(__file__).parent.parent
SECONDS = 300

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


Done = subprocess.CompletedProcess[str]


def run_program(
    name: str,
    *arguments: object,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Done:
    """Run a program to its end, as subprocess.run does that captures its text.

    `before` is called in its process.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / stream for stream in ("out", "err")]
        command = [str(ROOT / name), *map(str, arguments)]
        process = start_program(command, outputs, cwd, env, before)
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, SECONDS)
        texts = [path.read_text() if path.exists() else "" for path in outputs]
    return subprocess.CompletedProcess(command, process.exitcode, *texts)


def start_program(
    command: list[str],
    outputs: list[Path],
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> ForkServerProcess:
    """Start a program whose two streams go into files; `before` is called in its process."""
    where = cwd or Path.cwd(), env or dict(os.environ)
    process = _context.Process(target=_be, args=(command, outputs, *where, before))
    process.start()
    return process


def stand_in(
    command: list[str], outputs: Sequence[Path], cwd: Path, environment: Mapping[str, str]
) -> None:
    """Have a forked process stand where a program would that was started anew.

    `outputs` are the files of standard output and error, or twice the same.
    """
    for number, (stream, path) in enumerate(zip(("stdout", "stderr"), outputs, strict=True), 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        setattr(sys, stream, os.fdopen(number, "w", buffering=1, closefd=False))
    os.chdir(cwd)
    variables = dict(environment)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = command


def _be(
    command: list[str],
    outputs: list[Path],
    cwd: Path,
    environment: dict[str, str],
    before: Callable[[], None] | None,
) -> None:
    """Be the program, in the forked process."""
    stand_in(command, outputs, cwd, environment)
    if before is not None:
        before()
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
