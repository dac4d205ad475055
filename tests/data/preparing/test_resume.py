"""Killing the preparation at random moments: it goes on, and ends with the same files."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from data.layout import SPLITS
from tests.forked_programs import ROOT

KILLS = 20

# Starts a preparation in a fork for each line it reads, so that everything is imported once.
SERVER = """
import os, sys
from pathlib import Path
from data.text import encoder as text
from data.preparing.pipeline import prepare
from tests.preparation import SINGLE_PROCESS, demo_request

text._BATCH_SIZE = {"cpu": 8}
datadir, bert = sys.argv[1:]
for _ in sys.stdin:
    pid = os.fork()
    if not pid:
        prepare(demo_request(Path(datadir), bert), SINGLE_PROCESS)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def contents(datadir):
    return {
        str(path.relative_to(datadir)): path.read_bytes()
        for split in SPLITS
        for path in sorted((datadir / split).iterdir())
    }


def clear(datadir):
    for split in SPLITS:
        shutil.rmtree(datadir / split)
    (datadir / "dataset.json").unlink()


class Server:
    def __init__(self, datadir, bert):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(datadir), str(bert)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, kill_after=None):
        """Prepare; kill after some seconds. Returns the exit code."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=200)


def test_killed_at_random_moments_it_ends_with_the_same_files(demo, tmp_path):
    for folder in ("csd", "demo_bert"):
        shutil.copytree(demo / folder, tmp_path / folder)
    server = Server(tmp_path, tmp_path / "demo_bert")
    for _ in range(2):  # the first waits for the server's start
        begin = time.perf_counter()
        assert server.run() == 0
        duration = time.perf_counter() - begin
        expected = contents(tmp_path)
        clear(tmp_path)
    moments, kills = random.Random(0), 0
    while kills < KILLS:
        # Short enough that many kills share one preparation.
        if server.run(kill_after=moments.uniform(0, duration / 2)) == -signal.SIGKILL:
            kills += 1
        if (tmp_path / "dataset.json").exists():
            assert server.run() == 0
            assert contents(tmp_path) == expected
            clear(tmp_path)
    assert server.run() == 0
    server.close()
    assert contents(tmp_path) == expected
    assert not (tmp_path / ".preparing").exists()
