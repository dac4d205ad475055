"""How many processors this process may use.

A machine's count is not it: a process may be held to some of them, and a container to a share of
their time.
"""

from __future__ import annotations

from functools import cache

_sharing = [1]  # how many processes share them


@cache
def usable_cpus() -> int:
    """Return how many processors this process may keep busy, at least 1.

    A part of one counts as one. It is looked up once.
    """
    from joblib import cpu_count  # slow to import

    count: int = cpu_count()
    return max(1, count // _sharing[-1])


def share_cpus(count: int) -> None:
    """Leave to this process its part of the processors: `count` alike are at work from now on."""
    _sharing.append(count)
    usable_cpus.cache_clear()
