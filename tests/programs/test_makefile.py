from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"
# Makes a folder as `python -m venv` does, then fails or waits; `python -c` passes.
PYTHON = '#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir "$3"\necho begun\n{}\n'


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(("then", "is_interrupted"), [("exit 1", False), ("exec sleep 60", True)])
def test_a_half_made_environment_is_removed(interruptible, tmp_path, then, is_interrupted):
    python = tmp_path / "python3"
    python.write_text(PYTHON.format(then))
    python.chmod(0o755)
    command = ["make", "--silent", "-f", MAKEFILE, f"PYTHON={python}", ".venv"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as making:
        assert making.stdout.readline() == "begun\n"
        if is_interrupted:
            os.killpg(making.pid, signal.SIGINT)
        assert making.wait(timeout=200) != 0
    assert not (tmp_path / ".venv").exists()
