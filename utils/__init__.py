"""Training and evaluation loops, and their reports.

For use from Python: `run`, `evaluate` and `predict` (see `utils.api`), and their `RunConfig`.
"""

from typing import Any

from utils.run_config import RunConfig

__all__ = ["RunConfig", "evaluate", "predict", "run"]


def __getattr__(name: str) -> Any:
    """Import `utils.api`, and with it PyTorch, which is slow, at the first use of its names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from utils import api

    return getattr(api, name)
