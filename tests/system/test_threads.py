"""Sharing work out to threads."""

from __future__ import annotations

import os
import threading
import weakref

import pytest

from system import threads
from system.threads import in_parallel


@pytest.fixture(params=[1, 2, 5])
def cpus(request, monkeypatch):
    monkeypatch.setattr(threads, "usable_cpus", lambda: request.param)
    threads._helpers.cache_clear()
    yield request.param
    monkeypatch.undo()
    threads._helpers.cache_clear()


def test_results_are_in_order(cpus):
    items = [(i, i + 1) for i in range(100)]
    assert in_parallel(lambda a, b: a * b, items, 9) == [a * b for a, b in items]
    assert in_parallel(pow, [], 9) == []


@pytest.mark.parametrize("most", [0, 1, 3, 9])
def test_threads_work_at_once_no_more_than_cores_or_asked_for(cpus, most, monkeypatch):
    expected = max(1, min(cpus, most))
    together, pool, submitted = threading.Barrier(expected, timeout=20), threads._helpers(), []

    class Counted:
        def submit(self, work):
            submitted.append(work)
            return pool.submit(work)

    monkeypatch.setattr(threads, "_helpers", Counted)
    in_parallel(lambda _: together.wait(), [(0,)] * expected, most)
    assert len(submitted) == expected - 1


@pytest.mark.parametrize("wrong", [0, 7, 99])
def test_an_error_is_raised_when_all_threads_have_ended(cpus, wrong):
    done = []

    def function(number):
        if number == wrong:
            raise OSError(f"{number}")
        done.append(number)

    with pytest.raises(OSError, match=str(wrong)):
        in_parallel(function, [(number,) for number in range(100)], 9)
    seen = len(done)
    assert in_parallel(len, [((),)] * 10, 9) == [0] * 10  # the threads are as good as before
    assert len(done) == seen


def test_a_forked_process_does_the_work_without_them(cpus):
    in_parallel(abs, [(1,)] * 10, 9)
    pid = os.fork()
    if not pid:
        os._exit(sum(in_parallel(abs, [(1,)] * 10, 9)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10


def test_results_are_not_kept_by_helpers_that_nobody_needed(monkeypatch):
    monkeypatch.setattr(threads, "usable_cpus", lambda: 2)
    threads._helpers.cache_clear()
    busy = threading.Event()
    threads._helpers().submit(busy.wait)

    class Result:
        pass

    result = in_parallel(Result, [()], 2).pop()
    kept = weakref.ref(result)
    del result
    assert kept() is None
    busy.set()
    monkeypatch.undo()
    threads._helpers.cache_clear()
