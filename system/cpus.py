"""How many processors this process may use.

A machine's count is not it: a process may be held to some of them, and a container or a job to
a share of their time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@cache
def usable_cpus() -> int:
    """Return how many processors this process may keep busy, at least 1.

    A part of one counts as one. It is looked up once.
    """
    shares = [math.ceil(share) for share in _shares_of_time()]
    return max(1, min([_permitted(), *shares]) // _sharing[-1])


_sharing = [1]  # how many processes share them


def share_cpus(count: int) -> None:
    """Leave to this process its part of the processors: `count` alike are at work from now on."""
    _sharing.append(count)
    usable_cpus.cache_clear()


def _permitted() -> int:
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _shares_of_time() -> Iterator[float]:
    """Yield the processors' time that each of Linux's control groups around this one leaves it."""
    for folder, is_unified in _own_groups():
        try:
            if is_unified:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in _V1)
            if quota.strip() not in _NO_LIMIT:
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such limit, or none to be understood
            continue


_V1 = ("quota", "period")
_NO_LIMIT = ("max", "-1")


def _own_groups() -> Iterator[tuple[Path, bool]]:
    """Yield the folders of the groups, the innermost first, and whether each is of version 2."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:  # another system
        return
    for line in lines:  # number:controllers:/group
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _GROUPS / controllers
        path = PurePosixPath(group.lstrip("/"))
        # A container may see the names outside, but only its own group's folder, as the root.
        for inner in dict.fromkeys([path, *path.parents, PurePosixPath()]):
            yield root / inner, not controllers
