"""A search space: the settings that a search chooses, and among which values."""

from __future__ import annotations

import math
import warnings
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
from optuna.samplers import RandomSampler

from models.registry import config_class
from system.config import check_setting, make_config
from system.errors import InputError, first_line, shown
from system.files import read_json
from utils.run_config import TEXT_ENCODER_SETTINGS, RunConfig

Space: TypeAlias = Mapping[str, BaseDistribution]  # by a setting's name

# What a run predicts, of what, and how it runs is not searched, and the seed least of all.
_NOT_SEARCHED = (
    *("alignment", "task", "model", "set", "seed", "device", "precision", "compile", "native"),
    *("finetune_bert", "accumulation_steps", "gradient_checkpointing"),
)
_OF_A_RUN = tuple(name for name in RunConfig().outcome if name not in _NOT_SEARCHED)
_OF_A_RANGE = {"low", "high", "log", "step"}
_DRAWS = 100  # random trials, none of which the model takes, before a space is refused


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
    _refuse_what_never_fits(free, config, f"{path}: no trial of it could be built")
    return free


def _refuse_what_never_fits(space: Space, config: RunConfig, where: str) -> None:
    """Raise InputError unless the model takes one of some random trials: settings go together."""
    study, refused = optuna.create_study(sampler=RandomSampler(seed=0)), None
    for _ in range(_DRAWS):
        settings = with_values(config, suggest(study.ask(), space)).set
        try:
            model = make_config(config_class(config.model_name), settings, where)
            unused = TEXT_ENCODER_SETTINGS if "text" in getattr(model, "left_out", []) else []
            for name in filter(space.__contains__, unused):
                raise InputError(
                    f"{where}: {name} is for a text encoder, but the model leaves text out; leave "
                    "this out too."
                )
            return
        except InputError as error:
            refused = error
    assert refused is not None
    raise refused


def _distribution(name: str, values: Any, config: RunConfig, where: str) -> BaseDistribution:
    cls = RunConfig if name in _OF_A_RUN else config_class(config.model_name)
    known = [*_OF_A_RUN, *cls.__dataclass_fields__]
    if name not in known:
        raise InputError(f"{where}: this is not searched, only: {', '.join(known)}.")
    if name in TEXT_ENCODER_SETTINGS and config.finetune_bert is None:
        raise InputError(
            f"{where} is for a text encoder that is trained along; leave it out, or add "
            "--finetune_bert."
        )
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
    step = others.get("step", 1)
    if not _is_step(step, is_whole):
        expected = "a whole number above 0" if is_whole else "a number above 0"
        raise InputError(f"{where}: step is {shown(step)}, expected {expected}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return (IntDistribution if is_whole else FloatDistribution)(low, high, **others)
    except UserWarning:
        raise InputError(
            f"{where}: no number of steps of {step} leads from {low} to {high}; give another end."
        ) from None
    except (ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"{where}: {first_line(error)}") from error


def _is_step(step: Any, is_whole: bool) -> bool:
    kinds = (int,) if is_whole else (int, float)
    is_number = isinstance(step, kinds) and not isinstance(step, bool)
    return is_number and math.isfinite(step) and step > 0


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
    """Return a space as plain values, which Optuna's `json_to_distribution` takes back."""
    return {name: distribution_to_json(one) for name, one in space.items()}


def describe(one: BaseDistribution) -> str:
    """Return the values as people read them."""
    if isinstance(one, CategoricalDistribution):
        return ", ".join(map(str, one.choices))
    assert isinstance(one, IntDistribution | FloatDistribution)
    step = one.step if one.step not in (None, 1) else None
    ends = f"{one.low:g} to {one.high:g}"
    return ends + (", by its logarithm" if one.log else f", by {step:g}" if step else "")


def value_text(value: Any) -> str:
    """Return a setting's value, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
