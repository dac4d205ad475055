"""The harness of kills finds a file that a restart leaves otherwise, and a few kills pass."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from tests.forked_programs import ROOT
from tests.fuzz import kills, programs


@pytest.mark.parametrize("fault", ["differ: ['a.csv']", "exit code 7", None])
def test_a_restart_that_goes_wrong_is_found(tmp_path, monkeypatch, fault):
    out = tmp_path / "room" / "out"

    def main():
        if not (out / "begun.csv").exists():
            (out / "begun.csv").touch()
            while True:
                pass
        (out / "a.csv").write_text("other" if fault and "differ" in fault else "same")
        raise SystemExit(7 if fault == "exit code 7" else 0)

    program = types.ModuleType("program")
    program.main = main
    monkeypatch.setitem(sys.modules, "program", program)
    room = programs.Room(tmp_path / "room", {})
    expected = {"begun.csv": b"", "a.csv": b"same"}
    phase, found = kills.kill_and_restart(room, ("program",), expected, 1)
    assert phase == "starting"
    assert (found or "").split("\n")[0] == (fault or "")


def test_a_few_kills_end_as_undisturbed_runs_do():
    command = [sys.executable, "-m", "tests.fuzz.kills", "--n", "6", "--seed", "2022"]
    env = {**os.environ, programs.UNPAINTED: ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills" in done.stdout
