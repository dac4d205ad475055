"""How many processors a process may use, how many threads compute, and how idle ones wait."""

from __future__ import annotations

import os
import subprocess
import sys

import joblib
import pytest

from system import cpus
from tests.forked_programs import ROOT

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
CODE = """
import os
from system.cpus import choose_threads, let_threads_sleep
let_threads_sleep()
import torch
torch.set_num_threads(2)
before = choose_threads({values})
print(os.environ.get("GOMP_SPINCOUNT"), before, torch.get_num_threads())
"""


@pytest.fixture(autouse=True)
def empty_cache():
    cpus.usable_cpus.cache_clear()
    yield
    cpus.usable_cpus.cache_clear()


@pytest.mark.parametrize(("sharing", "expected"), [(1, 6), (2, 3), (4, 1), (9, 1)])
def test_processes_that_share_processors_have_at_least_one_each(monkeypatch, sharing, expected):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    monkeypatch.setattr(cpus, "_sharing", [1])
    cpus.share_cpus(sharing)
    assert cpus.usable_cpus() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be restricted")
def test_a_process_that_is_restricted_to_one_processor_uses_one():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cpus.usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


def output_of(code, **variables):
    environment = {name: os.environ[name] for name in os.environ if name not in WAITING}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def outcome(values, **variables):
    return output_of(CODE.format(values=values), **variables)


def test_threads_sleep_soon_and_small_batches_have_one():
    assert outcome(100) == ["10000", "2", "1"]


def test_large_batches_keep_their_threads():
    assert outcome(100_000) == ["10000", "2", "2"]


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_what_the_user_says_of_waiting_stays(name):
    value = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "77"}[name]
    assert outcome(100, **{name: value})[0] == ("77" if name == "GOMP_SPINCOUNT" else "None")


def test_the_number_of_threads_that_the_user_says_stays():
    assert outcome(100, OMP_NUM_THREADS="2") == ["10000", "2", "2"]


def test_later_batches_have_the_threads_that_they_would_have_alone():
    code = """
import torch
from system.cpus import choose_threads
torch.set_num_threads(2)
for values in (100, 100, 100_000, 100):
    print(choose_threads(values), torch.get_num_threads())
torch.set_num_threads(3)  # by the user, between two runs
print(choose_threads(100_000), torch.get_num_threads())
"""
    assert output_of(code) == "2 1 2 1 2 2 2 1 3 3".split()
