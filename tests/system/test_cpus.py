"""How many processors this process may use."""

from __future__ import annotations

import os

import pytest

from system import cpus


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write control groups' files: the process is in the groups `own`, out of 64 processors."""

    def make(own, **limits):
        (tmp_path / "own").write_text(own)
        for name, content in limits.items():
            path = tmp_path / name.replace("__", "/").replace("_max", ".max").replace(
                "cfs", "cpu.cfs"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        cpus.usable_cpus.cache_clear()
        return cpus.usable_cpus()

    monkeypatch.setattr(cpus, "_GROUPS", tmp_path)
    monkeypatch.setattr(cpus, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cpus, "_permitted", lambda: 64)
    yield make
    cpus.usable_cpus.cache_clear()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # a part of one is one
        ("5000 100000\n", 1),
        ("max 100000\n", 64),
        ("9900000 100000\n", 64),  # more than there are
        ("damaged", 64),
        ("1 0", 64),
    ],
)
def test_a_containers_share_of_time_counts(groups, content, expected):
    assert groups("0::/\n", cpu_max=content) == expected


def test_the_narrowest_of_the_groups_around_counts(groups):
    limits = {"job_max": "", "job__cpu_max": "300000 100000", "job__step__cpu_max": "max 100000"}
    assert groups("0::/job/step\n", **limits) == 3


def test_a_group_that_is_named_as_it_is_outside_is_the_root_here(groups):
    assert groups("0::/machine/container\n", cpu_max="400000 100000") == 4


def test_older_control_groups_count(groups):
    limits = {
        "cpu,cpuacct__job__cfs_quota_us": "250000\n",
        "cpu,cpuacct__job__cfs_period_us": "100000\n",
    }
    assert groups("5:memory:/other\n4:cpu,cpuacct:/job\n0::/\n", **limits) == 3
    limits["cpu,cpuacct__job__cfs_quota_us"] = "-1\n"
    assert groups("4:cpu,cpuacct:/job\n", **limits) == 64


def test_another_system_has_no_groups(groups, monkeypatch, tmp_path):
    monkeypatch.setattr(cpus, "_OWN_GROUPS", tmp_path / "missing")
    cpus.usable_cpus.cache_clear()
    assert cpus.usable_cpus() == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be held")
def test_a_process_that_is_held_to_one_processor_uses_one():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    cpus.usable_cpus.cache_clear()
    try:
        assert cpus.usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
        cpus.usable_cpus.cache_clear()
