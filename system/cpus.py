"""How many processors this process may use, of those that the machine has."""

from __future__ import annotations

from functools import cache

_sharing = [1]  # how many processes share them; the last entry counts


@cache
def usable_cpus() -> int:
    """Return how many processors this process may keep busy, at least 1."""
    from joblib import cpu_count  # slow to import

    count: int = cpu_count()
    return max(1, count // _sharing[-1])


def share_cpus(count: int) -> None:
    """Limit this process to its share of the processors, which `count` processes share now."""
    _sharing.append(count)
    usable_cpus.cache_clear()
