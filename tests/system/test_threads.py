"""Distributing work to threads."""

from __future__ import annotations

import threading

import pytest

from system import threads
from system.threads import in_parallel


@pytest.fixture(params=[1, 2, 5])
def cpus(request, monkeypatch):
    monkeypatch.setattr(threads, "usable_cpus", lambda: request.param)
    return request.param


def test_results_are_in_order(cpus):
    items = [(i, i + 1) for i in range(100)]
    assert in_parallel(lambda a, b: a * b, items, 9) == [a * b for a, b in items]
    assert in_parallel(pow, [], 9) == []


@pytest.mark.parametrize("max_threads", [0, 1, 3, 9])
def test_threads_work_at_once_no_more_than_cores_or_asked_for(cpus, max_threads):
    expected = max(1, min(cpus, max_threads))
    together, at_work, seen = threading.Barrier(expected, timeout=20), set(), []

    def function(_):
        at_work.add(threading.get_ident())
        seen.append(len(at_work))
        together.wait()
        at_work.discard(threading.get_ident())

    in_parallel(function, [(0,)] * 4 * expected, max_threads)
    assert max(seen) == expected


@pytest.mark.parametrize("wrong", [0, 7, 99])
def test_an_error_is_raised_when_all_threads_have_ended(cpus, wrong):
    before, done = threading.active_count(), []

    def function(number):
        if number == wrong:
            raise OSError(f"{number}")
        done.append(number)

    with pytest.raises(OSError, match=str(wrong)):
        in_parallel(function, [(number,) for number in range(100)], 9)
    assert threading.active_count() == before
    assert set(range(wrong)) <= set(done)
