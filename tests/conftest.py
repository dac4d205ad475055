"""What several test files share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from data.demo import write_demo
from data.prepare import prepare
from tests.preparation import ALONE, demo_request

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The demo's folder, prepared once; do not write into it."""
    datadir = tmp_path_factory.mktemp("demo")
    prepare(demo_request(datadir, bert=str(write_demo(datadir))), ALONE)
    return datadir


@pytest.fixture
def program():
    """Run one of the two programs: `program("main_msaf.py", "--train", ...)`."""

    def run(name, *arguments, **options):
        return subprocess.run(
            [sys.executable, str(ROOT / name), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            **options,
        )

    return run
