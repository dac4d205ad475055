"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import signal
import sys

import numpy as np
import pytest
from hypothesis import settings
from matplotlib.figure import Figure

import main_msaf
from data.fetching.demo import write_demo
from data.preparing.pipeline import prepare
from tests import forked_programs
from tests.forked_programs import run_program, save_unpainted
from tests.preparation import SINGLE_PROCESS, demo_request

# Without a deadline, no test fails because the machine is busy.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")


def pytest_collection_finish():
    """Let the garbage collector pass over what is imported by now: much, which stays anyway."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let libraries see their objects freed at the end."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The folder of the demo dataset, prepared once; tests must not write into it."""
    datadir = tmp_path_factory.mktemp("demo")
    prepare(demo_request(datadir, bert=str(write_demo(datadir))), SINGLE_PROCESS)
    return datadir


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A folder with small arrays in the released script's format, which a model learns quickly."""
    folder, rng = tmp_path_factory.mktemp("small"), np.random.default_rng(0)
    directions = {"visual": rng.normal(size=35), "audio": rng.normal(size=74)}
    directions["bert"] = rng.normal(size=16)
    for split, n in {"train": 75, "val": 21, "test": 23}.items():
        (folder / split).mkdir()
        labels = rng.uniform(-3, 3, (n, 1, 7)).astype(np.float32)
        np.save(folder / split / "label50.npy", labels)
        for kind, direction in directions.items():
            values = rng.normal(size=(n, 6, len(direction)))
            values += 0.3 * labels[:, :, :1] * direction
            values[0, 0, :3] = -np.inf
            np.save(folder / split / f"{kind}50.npy", values)
    return folder


@pytest.fixture(autouse=True)
def unpainted(request, monkeypatch):
    """Where pictures are not what is tested, compose them, but save them white: painting is slow.

    Tests marked `painted` paint; so do programs that are no forks.
    """
    is_marked = request.node.get_closest_marker("painted")
    if request.path.parent.name in ("programs", "studies", "training") and not is_marked:
        monkeypatch.setattr(Figure, "savefig", save_unpainted)
        monkeypatch.setattr(forked_programs, "paints", False)


@pytest.fixture
def program():
    """Run one of the two programs: `program("main_msaf.py", "--train", ...)`."""
    return run_program


@pytest.fixture
def main(tmp_path, monkeypatch):
    """Run main_msaf.py in this process, in tmp_path: `main("--train", ...)`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["main_msaf.py", *map(str, arguments)])
        main_msaf.main()

    return run


@pytest.fixture
def interruptible():
    """Let SIGINT reach the processes that a test starts, even if pytest itself ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
