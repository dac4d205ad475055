"""The harness finds what it is for, and a small sample of hostile files passes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from system.errors import InputError
from tests.forked_programs import ROOT
from tests.fuzz import csd, pickles, programs


def raises(error):
    raise error


FAULTS = {
    "a fault of this program": lambda: raises(ValueError("unexpected")),
    "Out of memory": lambda: raises(MemoryError()),
    "Traceback (most recent call last)": lambda: print("Traceback (most recent call last)"),
    "ended by SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit code 70": lambda: raises(SystemExit(70)),
    "exit code 0": lambda: None,
    "0 error lines": lambda: raises(SystemExit(2)),
    "a payload ran": lambda: Path(pickles.MARKER).touch(),
    "wrote outside its folders": lambda: Path("other").touch(),
    "wrote outside": lambda: Path("../in/secret").write_bytes(b""),
    "took 1 s": lambda: time.sleep(20),
    # More than what this process shares with files, which a fork of it does not begin with.
    "MB": lambda: bytearray(b"x") * 2**30,
}


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MEMORY", 2**20)
    monkeypatch.setattr(programs.resource, "setrlimit", lambda *_: None)
    return programs.Room(tmp_path / "room", {"data.pkl": b""})


def outcome_of(room, monkeypatch, main):
    program = types.ModuleType("program")
    program.main = main
    monkeypatch.setitem(sys.modules, "program", program)
    return room.run(("program",), programs.SECONDS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(room, monkeypatch, fault):
    monkeypatch.setattr(programs, "SECONDS", 1 if fault == "took 1 s" else 30)
    outcome = outcome_of(room, monkeypatch, FAULTS[fault])
    assert fault in room.fault_of(outcome, must_fail=fault == "exit code 0")


def test_one_clear_line_is_no_fault(room, monkeypatch):
    outcome = outcome_of(room, monkeypatch, lambda: raises(InputError("what is wrong")))
    assert outcome.output == "error: what is wrong\n"
    assert room.fault_of(outcome, must_fail=True) is None


@pytest.mark.parametrize("cases", [csd.cases, pickles.cases])
def test_cases_depend_on_the_seed_alone(cases):
    once, again, other = list(cases(1, 8)), list(cases(1, 8)), list(cases(2, 8))
    if cases is csd.cases:  # HDF5 leaves what was in its memory between a file's parts
        once, again, other = ([name for name, _ in drawn] for drawn in (once, again, other))
    assert once == again
    assert once != other


def test_a_sample_of_hostile_files_ends_well():
    command = [sys.executable, "-m", "tests.fuzz", "--n", "24", "--seed", "2022"]
    env = {**os.environ, programs.UNPAINTED: ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_forks_find_one_thread():
    """One that has to wait for threads that it does not have would wait without end."""
    code = "from tests.fuzz import __main__; import torch; print(torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=environment, cwd=ROOT) == b"1\n"
