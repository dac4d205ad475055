from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from system.argument_types import device_name, positive_number, whole_number
from system.program import TRACEBACK_VARIABLE, ArgumentParser

ROOT = Path(__file__).parents[2]
PROGRAM = (
    "from system.console import *\nfrom system.interrupts import *\nfrom system.program import *\n"
    "def program():\n    {}\nrun(program)\n"
)
FULL_DISK = Path("/dev/full")
needs_full_disk = pytest.mark.skipif(not FULL_DISK.exists(), reason="needs /dev/full")


def run_program(body, **options):
    """Run a program with this body; returns its exit code, and what it printed."""
    environment = {name: os.environ[name] for name in os.environ if name != TRACEBACK_VARIABLE}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body)],
        text=True,
        cwd=ROOT,
        env=environment | options.pop("env", {}),
        timeout=200,
        **options,
    )
    return done.returncode, done.stdout, done.stderr


# How a program ends


def test_a_program_that_ends_well_exits_with_0():
    assert run_program("print_line('done')") == (0, "done\n", "")


INPUT_ERROR = "raise InputError('no file a.pth; give one')"
ENDS = {
    INPUT_ERROR: (2, "no file a.pth; give one"),
    "raise KeyboardInterrupt": (130, "Interrupted; what was finished is kept."),
    "raise OSError(28, 'No space left on device', 'a.pth')": (
        2,
        "The disk is full (a.pth); make room and run the same command again, a training with "
        "--resume auto.",
    ),
    "raise OSError(27, 'File too large', 'a.pth')": (
        2,
        "A file would be larger than this shell allows (a.pth); allow more (ulimit -f).",
    ),
    "open('nowhere/a.pth')": (2, "No such file or directory (nowhere/a.pth)."),
    "raise PermissionError(13, 'Permission denied', 'a.pth')": (
        2,
        "No permission (a.pth); change its rights, or choose a place you may read and write.",
    ),
    "open('a' * 256)": (
        2,
        f"A name is too long for the file system ({'a' * 256}); give a shorter one.",
    ),
    "raise OSError('cannot reach it')": (2, "cannot reach it."),
    "raise MemoryError": (2, "Out of memory; use smaller batches, or a machine with more."),
    "raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB.')": (
        2,
        "Out of memory; use smaller batches, or a machine with more.",
    ),
    "raise OSError(12, 'Cannot allocate memory', 'run')": (
        2,
        "Out of memory; use smaller batches, or a machine with more.",
    ),
    **dict.fromkeys(
        (
            "raise ImportError('a.so: file too short', path='a.so')",
            "raise ImportError('see') from ImportError('a.so: file too short', path='a.so')",
        ),
        (
            2,
            "A package's library cannot be loaded (a.so: file too short); allow more memory "
            "(ulimit -v), or install the packages again, on a disk from which programs may run.",
        ),
    ),
    "raise OSError(24, 'Too many open files', 'a.pth')": (
        2,
        "Too many files are open at once; allow more (ulimit -n), or use fewer --num_workers.",
    ),
    "raise RuntimeError('Too many open files. Communication with the workers is ...')": (
        2,
        "Too many files are open at once; allow more (ulimit -n), or use fewer --num_workers.",
    ),
    **dict.fromkeys(
        [
            "raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')",
            "raise RuntimeError('DataLoader worker (pid(s) 7, 8) exited unexpectedly')",
        ],
        (
            2,
            "A process that loads batches has ended before its work was done, perhaps because "
            "memory ran out; use fewer --num_workers, and run the same command again, a training "
            "with --resume auto.",
        ),
    ),
    "raise ValueError('one\\ntwo')": (
        1,
        "Unexpected error, a fault of this program: ValueError: one "
        "(set NHFNET_TRACEBACK=1 to see where).",
    ),
    "import no_such_package.of_another": (
        2,
        f"package no_such_package is missing in this Python ({sys.executable}); use "
        ".venv/bin/python (make demo creates it), or pip install -r requirements.txt.",
    ),
    "import data.no_such_module": (
        1,
        "Unexpected error, a fault of this program: ModuleNotFoundError: No module named "
        "'data.no_such_module' (set NHFNET_TRACEBACK=1 to see where).",
    ),
    "raise AssertionError": (
        1,
        "Unexpected error, a fault of this program: AssertionError "
        "(set NHFNET_TRACEBACK=1 to see where).",
    ),
    "raise SystemExit(5)": (5, None),
}


@pytest.mark.parametrize("body", ENDS)
def test_a_failure_ends_in_one_line_and_an_exit_code(body):
    code, message = ENDS[body]
    assert run_program(body) == (code, "", f"error: {message}\n" if message else "")


@pytest.mark.parametrize("where", ["", "import importing"])
def test_a_termination_is_an_interrupt(tmp_path, where):
    """A batch system sends it before it ends a job."""
    (tmp_path / "importing.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)\n")
    body = where or "signal.raise_signal(signal.SIGTERM)"
    done = run_program(body, env={"PYTHONPATH": str(tmp_path)})
    assert done == (143, "", "error: Interrupted; what was finished is kept.\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_the_terminal_cannot_encode_is_escaped(encoding):
    body = r"print_line('\u4f60 \udcff'); print_warning('\u4f60 \udcff')"
    code, output, error = run_program(body, env={"PYTHONIOENCODING": encoding})
    assert (code, output) == (0, "\\u4f60 \\udcff\n")
    assert error == "warning: \\u4f60 \\udcff\n"


@pytest.mark.parametrize("closed", [[1], [2], [1, 2]])
def test_closed_outputs_change_nothing(closed, tmp_path):
    body = f"print_line('a'); print_warning('b'); open(r'{tmp_path / 'end'}', 'w').close()"
    close = {"preexec_fn": lambda: [os.close(number) for number in closed]}
    code, output, error = run_program(body, **close)
    assert code == 0
    assert output == ("" if 1 in closed else "a\n")
    assert error == ("" if 2 in closed else "warning: b\n")
    assert (tmp_path / "end").exists()


def test_an_interrupt_within_an_import_is_not_taken_for_another_error(interruptible, tmp_path):
    """NumPy, for example, turns any exception into an ImportError."""
    (tmp_path / "importing.py").write_text(
        "import signal\ntry: signal.raise_signal(signal.SIGINT)\n"
        "except BaseException: raise ImportError\n"
    )
    done = run_program("import importing", env={"PYTHONPATH": str(tmp_path)})
    assert done == (130, "", "error: Interrupted; what was finished is kept.\n")


@pytest.mark.parametrize("then", ["print_line('goes on')", "pass"])
def test_an_interrupt_that_python_loses_still_ends_the_program(interruptible, then):
    """An exception in __del__ is ignored by Python."""
    body = "class Last:\n        def __del__(self): signal.raise_signal(signal.SIGINT)\n"
    body += f"    Last()\n    {then}"
    assert run_program(body) == (130, "", "error: Interrupted; what was finished is kept.\n")


def test_what_an_interrupt_broke_off_is_no_fault():
    """A block that waits for other processes may fail because they were interrupted first."""
    body = "\n    with hold_interrupts():\n        signal.raise_signal(signal.SIGTERM)\n"
    body += "        raise RuntimeError('Connection closed by peer')"
    assert run_program(body) == (143, "", "error: Interrupted; what was finished is kept.\n")


def test_blocks_within_blocks_hold_an_interrupt():
    body = "\n    with hold_interrupts():\n        with hold_interrupts():\n"
    body += "            signal.raise_signal(signal.SIGTERM)\n        print_line('to the end')"
    ended = "error: Interrupted; what was finished is kept.\n"
    assert run_program(body) == (143, "to the end\n", ended)


def test_what_goes_wrong_where_nothing_can_be_raised_is_a_line():
    body = "class Last:\n        def __del__(self): 1 / 0\n"
    body += "    Last()\n    print_line('done')"
    assert run_program(body) == (0, "done\n", "warning: ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("first", ["", "import system.early_interrupt; "])
def test_an_interrupt_that_is_to_be_ignored_is_ignored(first):
    """A shell lets a program in the background ignore it."""
    body = f"{first}signal.raise_signal(signal.SIGINT); print_line('done')"
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    assert run_program(body, **ignoring) == (0, "done\n", "")


@needs_full_disk
@pytest.mark.parametrize(
    "body",
    ["with open('/dev/full', 'w') as file: file.write('x')", "print_line('x')", "print('x')"],
)
def test_a_full_disk_is_told(body):
    with FULL_DISK.open("w") as full:
        code, _, error = run_program(body, stdout=full)
    assert code == 2
    assert error.startswith("error: The disk is full; make room and run the same command again")


def test_an_output_that_is_no_longer_read_ends_in_silence():
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format("while True: print_line('x' * 999)")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    program.stdout.readline()
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait(timeout=200) == 1
    program.stderr.close()


@pytest.mark.parametrize(("body", "code"), [(INPUT_ERROR, 2), ("1 / 0", 1)])
def test_the_traceback_is_shown_on_request(body, code):
    exit_code, _, error = run_program(body, env={TRACEBACK_VARIABLE: "1"})
    assert exit_code == code
    assert error.startswith("Traceback (most recent call last)")
    assert error.splitlines()[-1].startswith("error: ")


def test_strange_text_in_a_message_stays_on_its_line():
    body = r"print_warning('a\nb'); print_error('don’t \x1b[2K\ud800')"
    assert run_program(body)[2] == "warning: a\\nb\nerror: don’t \\x1b[2K\\ud800\n"


EVERYTHING = (
    "print_line('said'); print_heading('headed'); print_warning('warned'); "
    "raise InputError('wrong')"
)


def test_there_are_no_colour_codes_outside_a_terminal():
    assert run_program(EVERYTHING) == (2, "said\nheaded\n", "warning: warned\nerror: wrong\n")


def test_a_terminal_gets_colours():
    ours, theirs = pytest.importorskip("pty").openpty()
    try:
        run_program(EVERYTHING, stdout=theirs, stderr=theirs)
        output = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\x1b[33mwarning:\x1b[0m warned" in output
    assert "\x1b[31m\x1b[1merror:\x1b[0m wrong" in output
    assert "\x1b[1mheaded\x1b[0m" in output
    assert "said\r\n" in output


# Arguments


@pytest.fixture
def parser():
    parser = ArgumentParser()
    parser.add_argument("--epochs", type=whole_number(1))
    parser.add_argument("--lr", type=positive_number)
    parser.add_argument("--device", type=device_name)
    parser.add_argument("--split", choices=["val", "test"])
    return parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--epochs", "0"],
            "argument --epochs: expected a whole number of at least 1 and at most 2147483647, "
            "got '0'",
        ),
        (["--lr", "-1"], "argument --lr: expected a number above 0, got '-1'"),
        (
            ["--device", "gpu"],
            "argument --device: expected auto, cpu, cuda or cuda:N, got 'gpu'",
        ),
        (["--epoch_count", "3"], "unrecognized arguments: --epoch_count 3"),
        (["--lr"], "argument --lr: expected one argument"),
    ],
)
def test_a_mistaken_argument_is_told_in_one_line(parser, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.endswith(f" {message} (see --help)\n")
