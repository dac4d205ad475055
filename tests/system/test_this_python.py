from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADVICE = "use .venv/bin/python (make demo creates it)"


def run_python(*arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["main_msaf.py", "dataset_prep.py"])
def test_a_python_without_the_packages_is_told_in_one_line(name):
    line = f"error: package colorama is missing in this Python ({sys.executable}); {ADVICE}"
    done = run_python("-S", name, "--help")  # -S: without the folder of the packages
    assert done == (2, "", f"{line}, or pip install -r requirements.txt.\n")


def test_a_python_that_is_too_old_is_told_in_one_line():
    code = "import sys; sys.version_info, sys.version = (3, 9, 18), '3.9.18 (main)'"
    line = f"error: Python 3.9.18 ({sys.executable}) is too old, expected 3.10 or newer; {ADVICE}"
    assert run_python("-c", f"{code}; import system.this_python") == (2, "", f"{line}.\n")
