"""A search space: the settings that a search chooses, and among which values."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from models.registry import config_class
from system.config import check_setting
from system.errors import InputError, first_line, shown
from system.files import read_json
from utils.run_config import RunConfig

Space: TypeAlias = Mapping[str, BaseDistribution]  # by a setting's name

# What a run predicts, of what, and how it runs is not searched, and the seed least of all.
_NOT_SEARCHED = (
    *("alignment", "task", "model", "set", "seed", "device", "precision", "compile", "native"),
    *("finetune_bert", "accumulation_steps", "gradient_checkpointing"),
)
_OF_A_RUN = tuple(name for name in RunConfig().outcome if name not in _NOT_SEARCHED)
_OF_A_RANGE = {"low", "high", "log", "step"}


def read_space(path: Path, config: RunConfig, fixed: Collection[str] = ()) -> Space:
    """Return the space of a JSON file: a list of values, or a range, by a setting's name.

    A setting is the run's or the model's; those that are `fixed` are left out. Raises InputError,
    which names the file, for what is none, cannot be, or leaves nothing to search.
    """
    if not path.is_file():
        raise InputError(f"--space: no file {path}; give a JSON file of settings and their values.")
    content = read_json(path, "; give a JSON file of settings and their values")
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {shown(content)}, expected settings and their values.")
    space = {
        name: _distribution(name, values, config, f"{path}: {name}")
        for name, values in content.items()
    }
    free = {name: values for name, values in space.items() if name not in fixed}
    if not free:
        raise InputError(f"{path} leaves nothing to search; name a setting that is not given.")
    return free


def _distribution(name: str, values: Any, config: RunConfig, where: str) -> BaseDistribution:
    cls = RunConfig if name in _OF_A_RUN else config_class(config.model_name)
    known = [*_OF_A_RUN, *cls.__dataclass_fields__]
    if name not in known:
        raise InputError(f"{where}: this is not searched, only: {', '.join(known)}.")
    if isinstance(values, list) and values:
        return CategoricalDistribution([check_setting(cls, name, one, where) for one in values])
    if not (isinstance(values, dict) and {"low", "high"} <= values.keys() <= _OF_A_RANGE):
        raise InputError(
            f"{where} is {shown(values)}, expected a list of values, or "
            '{"low": ..., "high": ...}, with "log": true or "step": ... as one likes.'
        )
    low, high = (check_setting(cls, name, values[end], where) for end in ("low", "high"))
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)):
        raise InputError(f"{where} is no number; give a list of its values.")
    is_whole = isinstance(low, int) and isinstance(high, int)
    others = {key: value for key, value in values.items() if key in ("log", "step")}
    if not isinstance(others.get("log", False), bool):
        raise InputError(f"{where}: log is {shown(others['log'])}, expected true or false.")
    try:
        return (IntDistribution if is_whole else FloatDistribution)(low, high, **others)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {first_line(error)}") from error


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Return the values that the trial is of."""
    values: dict[str, Any] = {}
    for name, one in space.items():
        if isinstance(one, IntDistribution):
            values[name] = trial.suggest_int(name, one.low, one.high, step=one.step, log=one.log)
        elif isinstance(one, FloatDistribution):
            values[name] = trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)
        elif isinstance(one, CategoricalDistribution):
            values[name] = trial.suggest_categorical(name, one.choices)
    return values


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with these values of a space; the model's stand in `set`."""
    of_run = {name: value for name, value in values.items() if name in _OF_A_RUN}
    of_model = {name: value for name, value in values.items() if name not in _OF_A_RUN}
    return replace(config, **of_run, set=config.set | of_model)


def plain_space(space: Space) -> dict[str, str]:
    """Return a space as plain values, which `space_of` takes back."""
    return {name: distribution_to_json(one) for name, one in space.items()}


def describe(one: BaseDistribution) -> str:
    """Return the values as people read them."""
    if isinstance(one, CategoricalDistribution):
        return ", ".join(map(str, one.choices))
    about = json.loads(distribution_to_json(one))["attributes"]
    step = about["step"] if about["step"] not in (None, 1) else None
    ends = f"{about['low']:g} to {about['high']:g}"
    return ends + (", by its logarithm" if about["log"] else f", by {step:g}" if step else "")


def value_text(value: Any) -> str:
    """Return a setting's value, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
