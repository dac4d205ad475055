"""The loops (training, evaluation) and what they report.

From Python: `run`, `evaluate` and `predict` (see `utils.api`), and their `RunConfig`.
"""

from typing import Any

from utils.run_config import RunConfig

__all__ = ["RunConfig", "evaluate", "predict", "run"]


def __getattr__(name: str) -> Any:
    """Import PyTorch, which is slow, only for what needs it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from utils import api

    return getattr(api, name)
