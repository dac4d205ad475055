"""How several processes are started, and which of them prints."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import torch.distributed

from system.errors import InputError
from system.processes import SINGLE_PROCESS, join_processes
from tests.forked_programs import ROOT
from tests.system.test_program import run_program


def test_one_process_needs_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_processes() is SINGLE_PROCESS
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join_processes() is SINGLE_PROCESS


@pytest.mark.parametrize("count", ["2", "many", "-1", ""])
def test_processes_not_started_by_torchrun_are_told_how_to_start(monkeypatch, count):
    """A batch system's script may set WORLD_SIZE alone."""
    monkeypatch.setenv("WORLD_SIZE", count)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="torchrun"):
        join_processes()


TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT: expected .* at most 65535, got 'x'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: expected .* at least 1 .* got '0'"),
        ({"RANK": "2"}, "RANK: expected .* at most 1, got '2'"),
        ({"RANK": None}, "RANK is not set"),
        ({"LOCAL_RANK": "9" * 5000}, "LOCAL_RANK: expected .* got '9.*'"),
        ({"LOCAL_WORLD_SIZE": "many"}, "LOCAL_WORLD_SIZE: expected .* got 'many'"),
    ],
)
def test_variables_that_are_not_those_of_torchrun_are_refused(monkeypatch, change, fault):
    """PyTorch would fail in words of its own, or wait for days."""
    monkeypatch.setattr(torch.distributed, "init_process_group", None)
    for name, value in ({"WORLD_SIZE": "2"} | TORCHRUN | change).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"but {fault}: to start them, put torchrun"):
        join_processes()


def test_a_port_in_use_is_told(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        first = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": str(server.getsockname()[1])}
        for name, value in ({"WORLD_SIZE": "2"} | TORCHRUN | first).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=r"cannot find each other .*in use.* --master_port"):
            join_processes()


def test_the_other_processes_print_only_an_error_of_their_own():
    body = "leave_printing_to_the_first_process(); print_line('a'); warnings.warn('b'); {}"
    assert run_program(body.format("pass")) == (0, "", "")
    assert run_program(body.format("raise InputError('mine')")) == (2, "", "error: mine\n")
    assert run_program(body.format("signal.raise_signal(signal.SIGTERM)")) == (143, "", "")


@pytest.mark.parametrize(("rank", "output"), [("0", "a\n"), ("1", "")])
def test_processes_of_torchrun_know_from_the_beginning_which_one_prints(rank, output):
    started = {"env": {"WORLD_SIZE": "2", "RANK": rank}}
    assert run_program("print_line('a')", **started) == (0, output, "")
    ended = (0, output, "") if rank == "0" else (143, "", "")
    body = "print_line('a')" if rank == "0" else "import os; os.kill(os.getpid(), signal.SIGTERM)"
    assert run_program(body, **started) == ended


def test_pictures_need_no_home_directory():
    code = "import pathlib\ndef home(*_): raise RuntimeError('none')\npathlib.Path.home = home\n"
    code += "import system.figures, os; print(os.environ['MPLCONFIGDIR'])"
    options = {"cwd": ROOT, "capture_output": True, "text": True, "env": {}}
    done = subprocess.run([sys.executable, "-c", code], timeout=200, **options)
    assert done.returncode == 0, done.stderr


def test_pictures_need_no_home_directory_that_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 200}
    command = [sys.executable, "-c", "import system.figures"]
    done = subprocess.run(command, env={"HOME": str(tmp_path / "file" / "home")}, **options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
