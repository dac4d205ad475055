"""Ablations: NHFNet with one part at a time left out or replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from models.nhfnet.config import NHFNetConfig
from system.config import make_config
from system.console import print_line
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

    Changes that `config` already has, or that do not change what it builds, are left out, and so
    are those that its other settings make impossible; prints which. Raises InputError when `config`
    has another model, or impossible settings.
    """
    if config.model not in (None, DEFAULT_MODEL):
        raise InputError(f"--ablate takes {DEFAULT_MODEL} apart, not {config.model}.")
    whole = replace(config, model=DEFAULT_MODEL)
    runs: dict[str, RunConfig] = {}
    names: dict[NHFNetConfig, str] = {}  # by what is built
    for change in ABLATIONS:
        name, settings = ablation_name(change), whole.set | change
        try:
            built = make_config(NHFNetConfig, settings, f"--model {DEFAULT_MODEL}").effective
        except InputError as error:
            if not change:
                raise
            print_line(f"Left out: {name} ({error})")
            continue
        earlier = names.setdefault(built, name)
        if earlier == name:
            runs[name] = replace(whole, set=settings)
        else:
            print_line(
                f"Left out: {name}, which is the same model as {earlier} with these settings"
            )
    return runs
