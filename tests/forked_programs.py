"""Runs the two programs in forks of a process that has imported them: they start at once."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# What the programs import only when they need it.
import h5py  # noqa: F401
import pytorch_pretrained_bert  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch._dynamo  # each training needs it; it is as slow to import as PyTorch
import torch.utils.data
import torch.utils.tensorboard  # noqa: F401
from matplotlib.figure import Figure
from PIL import Image

import models.registry  # noqa: F401
import utils.reports.evaluate_checkpoint
import utils.reports.plots
import utils.studies.plot
import utils.studies.search_plot
import utils.studies.tune
import utils.studies.worker
import utils.training.run  # noqa: F401

ROOT = Path(__file__).parent.parent
SECONDS = 300  # the longest time to wait
paints = True  # whether programs paint their pictures; otherwise they save them white

gc.freeze()  # of what is imported, a fork's garbage collector need not look at, and copy, a page
atexit.register(gc.unfreeze)  # or Triton would complain that its objects are never freed
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
    """Run a program to its end, as `subprocess.run(..., capture_output=True, text=True)` does.

    `before` is called in the program's process, before the program.
    """
    with Program(name, *arguments, cwd=cwd, env=env, before=before) as program:
        code = program.end()
        return subprocess.CompletedProcess(program.command, code, program.output, program.errors)


class Program:
    """A running program, killed at the end of the `with` block; arguments as in `run_program`."""

    def __init__(
        self,
        name: str,
        *arguments: object,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name) / stream for stream in ("out", "err")]
        self.command = [str(ROOT / name), *map(str, arguments)]
        folder, environment = cwd or Path.cwd(), env or dict(os.environ)
        fork_arguments = self.command, self._streams, folder, environment, before, paints
        self._process = _context.Process(target=_run_in_fork, args=fork_arguments)
        self._process.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    @property
    def output(self) -> str:
        """What it has printed to standard output so far."""
        return self._read(0)

    @property
    def errors(self) -> str:
        """What it has printed to standard error so far."""
        return self._read(1)

    @property
    def text(self) -> str:
        """All that it has printed so far."""
        return self.output + self.errors

    def _read(self, stream: int) -> str:
        path = self._streams[stream]
        return path.read_text() if path.exists() else ""

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until it has printed `text` at least `count` times."""
        end = time.monotonic() + SECONDS
        while self.text.count(text) < count:
            assert self._process.exitcode is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.01)

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    def end(self) -> int:
        """Wait for the end; returns the exit code, or the negative number of a signal."""
        self._process.join(SECONDS)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.command, SECONDS)
        return self._process.exitcode

    def stop(self) -> None:
        """Kill it, if it is still running."""
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def set_up_process(
    command: list[str], outputs: Sequence[Path], cwd: Path, environment: Mapping[str, str]
) -> None:
    """Give a forked process the state of a newly started one: output, folder, environment, argv.

    `outputs` are the files for standard output and standard error; they may be the same.
    """
    streams = zip(("stdout", "stderr"), outputs, strict=True)
    for descriptor, (stream, path) in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        setattr(sys, stream, os.fdopen(descriptor, "w", buffering=1, closefd=False))
    os.chdir(cwd)
    variables = dict(environment)  # a copy, since it may be os.environ
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = command


def save_unpainted(figure: Figure, path: Path, *, dpi: int) -> None:
    """Save a white picture of a figure's size, in place of `Figure.savefig`."""
    Image.new("RGB", tuple((figure.get_size_inches() * dpi).astype(int)), "white").save(path)


def _run_in_fork(
    command: list[str],
    outputs: list[Path],
    cwd: Path,
    environment: dict[str, str],
    before: Callable[[], None] | None,
    paints: bool,
) -> None:
    """Run the program in the forked process."""
    set_up_process(command, outputs, cwd, environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may ignore it
    if not paints:
        Figure.savefig = save_unpainted
    if before is not None:
        before()
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing does not call them
