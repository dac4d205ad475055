"""The models that there are."""

from __future__ import annotations

from models.registry import MODELS, build, describe_config
from system.console import format_table
from utils.reports.costs import count_parameters

# The widths of CMU-MOSEI's features: FACET, COVAREP and bert-base.
_MOSEI = {"visual": 35, "audio": 74, "text": 768}


def model_list() -> str:
    """Lay out each model's name, parameters on CMU-MOSEI, and settings with their defaults."""
    rows = []
    for name in MODELS:
        model = build(name, {}, _MOSEI, outputs=1)
        rows.append([name, f"{count_parameters(model):,}"])
    lines = [format_table(["model", "parameters"], rows), ""]
    lines += [f"{name}: {describe_config(name)}" for name in MODELS]
    return "\n".join(lines)
