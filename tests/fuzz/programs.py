"""Running the programs on a file as a user would, in a process of its own, and judging the end.

The process is a fork of one that has imported everything already: a run costs milliseconds.
"""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from system import program
from tests.forked_programs import save_unpainted, set_up_process
from tests.fuzz.pickles import MARKER

SECONDS, MEMORY = 30, 2**30  # what a run may take, of memory beyond the start
UNPAINTED = "UNPAINTED"  # the variable that has runs save white pictures, which takes less time
_FAULTS = ("Traceback (most recent call last)", "a fault of this program", "Out of memory")

Command = tuple[str, ...]  # the program's name, then its arguments


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: int  # the exit code, or minus the signal
    output: str
    seconds: float
    memory: int  # bytes above the start


class Room:
    """A folder with all that a run may touch: `in` to read, `out` to write, `cwd`, `home`."""

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        for name in ("in", "out", "cwd", "home"):
            (folder / name).mkdir(parents=True)
        for name, content in files.items():
            path = folder / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for place in ("in", "cwd"):  # where a file could point
            (folder / place / "secret").write_bytes(bytes(range(256)) * 400)
            os.mkfifo(folder / place / "pipe")
        self._before = self._contents()

    def _contents(self) -> dict[Path, tuple[int, int]]:
        paths = [path for path in self.folder.rglob("*") if not self._is_free(path)]
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}

    def _is_free(self, path: Path) -> bool:
        first = path.relative_to(self.folder).parts[0]
        return first in ("out", "home", "log") or path.is_dir() or path.suffix == ".lock"

    def fault_of(self, outcome: Outcome, must_fail: bool) -> str | None:
        """Return what is wrong with a run; None where it ended as it may."""
        if outcome.seconds >= SECONDS:
            return f"took {outcome.seconds:.0f} s"
        if outcome.status < 0:
            return f"ended by {signal.Signals(-outcome.status).name}"
        for fault in _FAULTS:
            if fault in outcome.output:
                return fault
        if outcome.memory > MEMORY:
            return f"took {outcome.memory / 2**20:.0f} MB"
        errors = [line for line in outcome.output.splitlines() if line.startswith("error: ")]
        if outcome.status == 2 and len(errors) != 1:
            return f"{len(errors)} error lines"
        if outcome.status not in (0, 1, 2) or (must_fail and outcome.status == 0):
            return f"exit code {outcome.status}"
        if (self.folder / "cwd" / MARKER).exists():
            return "a payload ran"
        if self._contents() != self._before:
            return "wrote outside its folders"
        return None

    def run(self, command: Command, most_seconds: float = SECONDS) -> Outcome:
        """Run a program here; `{in}` and `{out}` in its arguments are this room's."""
        log = self.folder / "log"
        log.write_bytes(b"")
        start, begin = _resident(), time.monotonic()
        pid = os.fork()
        if not pid:
            _become(self.folder, log, command)
        status = usage = None
        while status is None:
            found, waited, usage = os.wait4(pid, os.WNOHANG)
            seconds = time.monotonic() - begin
            if found:
                status = os.waitstatus_to_exitcode(waited)
            elif seconds >= most_seconds:
                os.kill(pid, signal.SIGKILL)
                _, waited, usage = os.wait4(pid, 0)
                status = os.waitstatus_to_exitcode(waited)
            else:
                time.sleep(0.002)
        with suppress(ProcessLookupError):  # what it started
            os.killpg(pid, signal.SIGKILL)
        memory = usage.ru_maxrss * 1024 - start
        return Outcome(status, log.read_text(errors="replace"), seconds, memory)


def _become(folder: Path, log: Path, command: Command) -> None:
    """Be the program, in a forked process; never returns."""
    code = 70
    try:
        os.setsid()
        name, *arguments = command
        places = {place: str(folder / place) for place in ("in", "out")}
        filled = [name, *(text.format_map(places) for text in arguments)]
        # Compiled code goes where the next run finds it.
        homes = {"HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder.parent / "cache")}
        set_up_process(filled, [log, log], folder / "cwd", {**os.environ, **homes})
        most = _resident(column=0) + 8 * MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if UNPAINTED in os.environ:
            Figure.savefig = save_unpainted
        program.run(importlib.import_module(name).main)
    except SystemExit as end:
        code = end.code
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def _resident(column: int = 1) -> int:
    """Return this process's memory in bytes: 0 reserved, 1 resident."""
    pages = Path("/proc/self/statm").read_text().split()[column]
    return int(pages) * resource.getpagesize()


def import_what_runs_import(folder: Path, files: dict[str, bytes], commands: Sequence[Command]):
    """Run sound commands, and import here whatever they did; raises AssertionError if one fails.

    Returns the files in `out` after them.
    """
    room = Room(folder, files)
    for command in commands:
        outcome = room.run((_RECORDING, *command), most_seconds=600)
        assert outcome.status == 0, outcome.output
        for name in (folder / "home" / "modules").read_text().split():
            with suppress(Exception):
                importlib.import_module(name)
    out = folder / "out"
    found = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


_RECORDING = "tests.fuzz.recording"
