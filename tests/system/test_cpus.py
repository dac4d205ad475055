"""How many processors this process may use."""

from __future__ import annotations

import os

import joblib
import pytest

from system import cpus


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
