"""Distributing work to forked processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import joblib
import psutil
import pytest

from system import cpus, forked
from system.errors import InputError
from system.forked import map_forked
from tests.forked_programs import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
MANY = list(range(100))


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(forked, "usable_cpus", lambda: 2)


@pytest.fixture
def started():
    """A function that returns the running processes that this test has started."""
    before = psutil.Process().children()  # other tests' servers
    return lambda: [child for child in psutil.Process().children() if child not in before]


def process_id(_):
    return os.getpid()


@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_results_are_in_order_and_of_no_more_processes_than_processors(monkeypatch, count):
    monkeypatch.setattr(forked, "usable_cpus", lambda: count)
    results = list(map_forked(lambda n: (n * n, bytes(n * 10**4), os.getpid()), MANY))
    assert [(square, len(zeros)) for square, zeros, _ in results] == [
        (n * n, n * 10**4) for n in MANY
    ]
    pids = {pid for *_, pid in results}
    assert len(pids) == min(count, 4)
    assert (os.getpid() in pids) == (count == 1)


@pytest.mark.parametrize("items", [[], [1], MANY[:31]])
def test_little_work_is_done_here(two, items):
    assert list(map_forked(process_id, items)) == [os.getpid()] * len(items)


def test_elsewhere_all_is_done_here(two, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert set(map_forked(process_id, MANY)) == {os.getpid()}


def test_each_process_has_its_share_of_the_processors(two, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    cpus.usable_cpus.cache_clear()
    assert set(map_forked(lambda _: cpus.usable_cpus(), MANY)) == {3}
    assert cpus.usable_cpus() == 6
    cpus.usable_cpus.cache_clear()


@pytest.mark.parametrize("wrong", [0, 7, 99])
def test_an_error_comes_in_its_items_place(two, started, wrong):
    def function(n):
        if n >= wrong:
            raise InputError(f"{n} is wrong")
        return n

    results = []
    with pytest.raises(InputError, match=f"^{wrong} is wrong$"):
        results.extend(map_forked(function, MANY))
    assert not started()


class Odd(Exception):
    """It can be pickled, but not unpickled, which calls it with only one argument."""

    def __init__(self, where, what):
        super().__init__(f"{what} in {where}")


@pytest.mark.parametrize("error", [Odd("here", "wrong"), Exception("wrong in here", lambda: 0)])
def test_an_error_that_cannot_be_sent_is_told_by_its_type_and_words(two, error):
    def function(n):
        raise error

    with pytest.raises(RuntimeError, match=f"{type(error).__name__}: .*wrong in here"):
        list(map_forked(function, MANY))


def test_a_killed_process_is_told_in_one_line(two):
    results = map_forked(lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == 5 else n, MANY)
    with pytest.raises(InputError, match=r"exit code -9.*run the same command again") as caught:
        list(results)
    assert "\n" not in str(caught.value)


def test_closing_the_iterator_leaves_no_process_behind(two, started):
    results = map_forked(lambda n: bytes(10**7), MANY)
    assert len(next(results)) == 10**7
    assert len(started()) == 2
    results.close()
    assert not started()


def test_an_interrupt_is_the_first_processes_alone(two, capfd):
    def interrupted(n):
        os.kill(os.getpid(), signal.SIGINT)
        return n

    assert list(map_forked(interrupted, MANY)) == MANY
    assert capfd.readouterr() == ("", "")


PROGRAM = """
import time
from system import forked
forked.usable_cpus = lambda: 2
for n in forked.map_forked(lambda n: bytes(10**6), range(10**6)):
    print(flush=True)
    time.sleep(60)
"""


def test_no_process_outlives_the_first(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    program.stdout.readline()
    children = psutil.Process(program.pid).children()
    assert len(children) == 2
    program.kill()
    assert program.communicate(timeout=20) == (b"", b"")
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_system_that_forgets_processes_that_end(two):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as some launchers leave it
    try:
        assert list(map_forked(abs, MANY)) == MANY
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_an_interrupt_as_processes_start_leaves_none(two, started, monkeypatch):
    fork = os.fork

    def interrupted_fork():
        process = fork()
        if process:  # this thread, as Ctrl-C does where it can
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        return process

    monkeypatch.setattr(os, "fork", interrupted_fork)
    descriptors = psutil.Process().num_fds()
    with pytest.raises(KeyboardInterrupt):
        list(map_forked(abs, MANY))
    assert not started()
    assert psutil.Process().num_fds() == descriptors


INTERRUPTED = """
import os, signal, sys, threading, time
import psutil
from system import forked
from system.program import run
from system.forked import map_forked

fork = os.fork

def interrupted_fork():
    process = fork()
    if process:  # no thread blocks it but this one
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    return process

def program():
    threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    try:
        list(map_forked(abs, list(range(100))))
    finally:
        print(psutil.Process().children())

forked.usable_cpus = lambda: 2
os.fork = interrupted_fork
run(program)
"""


def test_an_interrupt_that_another_thread_gets_leaves_none():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout) == (130, b"[]\n"), done.stderr
