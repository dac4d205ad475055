"""Ablations: NHFNet with one part at a time left out or replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from system.errors import InputError
from utils.run_config import DEFAULT_MODEL, RunConfig

# Changes of the whole model; the first is the whole model itself.
ABLATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"aggregation_tokens": 0},
    {"token_init": "learned"},
    {"fusion_passes": 1},
    {"cross_modal": False},
    {"modalities": "text"},
    {"modalities": "audio"},
    {"modalities": "visual"},
    {"modalities": "text,audio"},
    {"modalities": "text,visual"},
    {"modalities": "audio,visual"},
    {"wiring": "figure"},
    {"layers": 2},
    {"heads": 4},
    {"width": 16},
)


def ablation_name(change: dict[str, Any]) -> str:
    """Return the name of the run with this change; without a change, the whole model's name."""
    return ", ".join(f"{key}={value}" for key, value in change.items()) or DEFAULT_MODEL


def ablations(config: RunConfig) -> dict[str, RunConfig]:
    """Return the whole model's run and one for each change of it, by name.

    Changes that `config` already has are left out. Raises InputError when it has another model.
    """
    if config.model not in (None, DEFAULT_MODEL):
        raise InputError(f"--ablate takes {DEFAULT_MODEL} apart, not {config.model}.")
    whole = replace(config, model=DEFAULT_MODEL)
    settings = {ablation_name(change): whole.set | change for change in ABLATIONS}
    return {
        name: replace(whole, set=values)
        for name, values in settings.items()
        if values != whole.set or name == DEFAULT_MODEL
    }
