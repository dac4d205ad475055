"""A search space: the settings that a search chooses, and the values it chooses from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
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
from optuna.samplers import RandomSampler

from models.registry import config_class
from system.config import check_setting, make_config
from system.errors import InputError, first_line, shown
from system.files import not_a_file, read_json
from utils.run_config import TEXT_ENCODER_SETTINGS, RunConfig

Space: TypeAlias = Mapping[str, BaseDistribution]  # by setting name

# A search does not choose the task, the data, how a run is executed, or the seed.
_NOT_SEARCHED = (
    *("alignment", "task", "model", "set", "seed", "device", "precision", "compile", "native"),
    *("finetune_bert", "accumulation_steps", "gradient_checkpointing"),
)
_RUN_SETTINGS = tuple(name for name in RunConfig().outcome if name not in _NOT_SEARCHED)
_RANGE_KEYS = {"low", "high", "log", "step"}
_DRAWS = 100  # random trials that the model refuses before the whole space is refused


def read_space(path: Path, config: RunConfig, fixed: Collection[str] = ()) -> Space:
    """Read a space from a JSON file: a list of values, or a range, by setting name.

    Settings are the run's or the model's; those in `fixed` are left out. Raises InputError, which
    names the file, when it is missing or invalid, or leaves nothing to search.
    """
    advice = "; give a JSON file of settings and their values"
    if not path.is_file():
        raise InputError(f"--space: {not_a_file(path)}{advice}.")
    content = read_json(path, advice)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {shown(content)}, expected settings and their values.")
    space = {
        name: _distribution(name, values, config, f"{path}: {name}")
        for name, values in content.items()
    }
    free = {name: values for name, values in space.items() if name not in fixed}
    if not free:
        raise InputError(f"{path} leaves nothing to search; add a setting that no option sets.")
    _check_buildable(free, config, f"{path}: no trial of it could be built")
    return free


def _check_buildable(space: Space, config: RunConfig, where: str) -> None:
    """Raise InputError when the model accepts none of some random combinations of settings."""
    study, last_error = optuna.create_study(sampler=RandomSampler(seed=0)), None
    for _ in range(_DRAWS):
        settings = with_values(config, suggest(study.ask(), space)).set
        try:
            model = make_config(config_class(config.model_name), settings, where)
            unused = [name for name in TEXT_ENCODER_SETTINGS if name in space]
            if not unused or "text" not in getattr(model, "left_out", []):
                return
            raise InputError(
                f"{where}: {unused[0]} is for a text encoder, but the model leaves text out; "
                f"leave {unused[0]} out too."
            )
        except InputError as error:
            last_error = error
    assert last_error is not None
    raise last_error


def _distribution(name: str, values: Any, config: RunConfig, where: str) -> BaseDistribution:
    cls = RunConfig if name in _RUN_SETTINGS else config_class(config.model_name)
    searchable = [*_RUN_SETTINGS, *(field.name for field in fields(cls) if field.init)]
    if name not in searchable:
        raise InputError(f"{where} cannot be searched; these can be: {', '.join(searchable)}.")
    if name in TEXT_ENCODER_SETTINGS and config.finetune_bert is None:
        raise InputError(
            f"{where} is for a fine-tuned text encoder; leave it out, or add --finetune_bert."
        )
    if isinstance(values, list) and values:
        return CategoricalDistribution([check_setting(cls, name, value, where) for value in values])
    if not (isinstance(values, dict) and {"low", "high"} <= values.keys() <= _RANGE_KEYS):
        raise InputError(
            f"{where} is {shown(values)}, expected a list of values, or "
            '{"low": ..., "high": ...}, "log" and "step" being optional.'
        )
    low, high = (check_setting(cls, name, values[end], where) for end in ("low", "high"))
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)):
        raise InputError(f"{where} is not a number; give a list of values instead of a range.")
    is_whole = isinstance(low, int) and isinstance(high, int)
    options = {key: value for key, value in values.items() if key in ("log", "step")}
    if not isinstance(options.get("log", False), bool):
        raise InputError(f"{where}: log is {shown(options['log'])}, expected true or false.")
    step = options.get("step", 1)
    if not _is_step(step, is_whole):
        expected = "a whole number above 0" if is_whole else "a number above 0"
        raise InputError(f"{where}: step is {shown(step)}, expected {expected}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return (IntDistribution if is_whole else FloatDistribution)(low, high, **options)
    except UserWarning:
        raise InputError(
            f"{where}: high {high} is not low {low} plus a multiple of step {step}; change high."
        ) from None
    except ArithmeticError as error:  # of Optuna's decimal numbers, without a message
        raise InputError(
            f"{where}: step {step} is too small for values from {low} to {high}; give a larger one."
        ) from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {first_line(error)}") from error


def _is_step(step: Any, is_whole: bool) -> bool:
    types = (int,) if is_whole else (int, float)
    is_number = isinstance(step, types) and not isinstance(step, bool)
    return is_number and math.isfinite(step) and step > 0


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Return the values that the sampler draws for a trial."""
    drawn: dict[str, Any] = {}
    for name, dist in space.items():
        if isinstance(dist, CategoricalDistribution):
            drawn[name] = trial.suggest_categorical(name, dist.choices)
        elif isinstance(dist, IntDistribution):
            drawn[name] = trial.suggest_int(name, dist.low, dist.high, step=dist.step, log=dist.log)
        elif isinstance(dist, FloatDistribution):
            low, high = dist.low, dist.high
            drawn[name] = trial.suggest_float(name, low, high, step=dist.step, log=dist.log)
    return drawn


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with these values of a space; those of the model are in `set`."""
    of_run = {name: value for name, value in values.items() if name in _RUN_SETTINGS}
    of_model = {name: value for name, value in values.items() if name not in _RUN_SETTINGS}
    return replace(config, **of_run, set=config.set | of_model)


def plain_space(space: Space) -> dict[str, str]:
    """Return a space as plain values, which Optuna's `json_to_distribution` reads."""
    return {name: distribution_to_json(dist) for name, dist in space.items()}


def describe(dist: BaseDistribution) -> str:
    """Return the values of a setting as text for people."""
    if isinstance(dist, CategoricalDistribution):
        return ", ".join(map(str, dist.choices))
    assert isinstance(dist, IntDistribution | FloatDistribution)
    is_plain = dist.step is None or (isinstance(dist, IntDistribution) and dist.step == 1)
    step = "" if is_plain else f", by {dist.step:g}"
    return f"{dist.low:g} to {dist.high:g}" + (", by its logarithm" if dist.log else step)


def value_text(value: Any) -> str:
    """Return a setting's value as short text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
