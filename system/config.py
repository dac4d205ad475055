"""Settings as frozen dataclasses: each with its default, its meaning and its check in one place.

A field's check is a function that parses text. The command line uses it directly; a value that
comes from a file must equal what its own text parses to. Fields with `init=False` are no settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, fields
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from system.errors import InputError, first_line, shown
from system.field_types import may_be, parser_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


def setting(default: Any, parse: Callable[[str], Any], meaning: str = "") -> Any:
    """Declare a dataclass field; `parse` raises ValueError or ArgumentTypeError on bad text."""
    return dataclass_field(default=default, metadata={"parse": parse, "meaning": meaning})


@dataclass(frozen=True)
class CheckedConfig:
    """A base for configurations that check themselves; raises ValueError with one line."""

    def __post_init__(self) -> None:
        for field in filter(lambda field: field.init, fields(self)):
            value = _checked(type(self), field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)


def make_config(cls: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """Make a dataclass from a file's or user's `values`; other fields keep their defaults.

    Raises InputError, which begins with `where`, for a name that the dataclass lacks, and for a
    value of another type or out of range.
    """
    checked = {name: check_setting(cls, name, values[name], where) for name in values}
    try:
        return cls(**checked)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}.") from error


def check_setting(cls: type[DataclassInstance], name: str, value: Any, where: str) -> Any:
    """Return one value as its field parses it; raises InputError as `make_config` does."""
    field = _field_of(cls, name, where)
    try:
        return _checked(cls, field, value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}.") from error


def parse_assignments(
    cls: type[DataclassInstance], assignments: Sequence[str], where: str
) -> dict[str, Any]:
    """Parse texts KEY=VALUE by the fields of a dataclass; the last one of a key counts.

    Raises InputError for a text without `=`, a key that the dataclass lacks, or a bad value.
    """
    values = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{where} {text}: expected KEY=VALUE.")
        field = _field_of(cls, name, f"{where} {text}")
        try:
            values[name] = parser_of(cls, field)(value)
        except Exception as error:
            raise InputError(f"{where} {text}: {first_line(error)}.") from error
    return values


def settings_of(config: DataclassInstance) -> dict[str, Any]:
    """Return a configuration's settings, from which `make_config` makes it again."""
    values = asdict(config)
    return {field.name: values[field.name] for field in fields(config) if field.init}


def plain_values(config: DataclassInstance) -> dict[str, Any]:
    """Return a configuration's values as JSON has them; paths become text."""
    return {
        name: value if isinstance(value, (bool, int, float, dict, type(None))) else str(value)
        for name, value in asdict(config).items()
    }


def _field_of(cls: type[DataclassInstance], name: str, where: str) -> Field[Any]:
    by_name = {field.name: field for field in fields(cls) if field.init}
    if name not in by_name:
        expected = ", ".join(by_name) or "none"
        raise InputError(f"{where}: there is no setting {shown(name)}, only: {expected}.")
    return by_name[name]


def _checked(cls: type[DataclassInstance], field: Field[Any], value: Any) -> Any:
    """Return `value` as the field's check parses it; raises ValueError when it does not pass."""
    if isinstance(value, dict) and _is_dict(field):
        return value
    if value is None and field.default is None:
        return value
    if (value is None or isinstance(value, str)) and may_be(cls, field, value):
        return value
    if isinstance(value, float) and value == field.default and math.isinf(value):
        return value
    if not isinstance(value, (bool, int, float, str, Path)):
        raise ValueError(f"{field.name} is {shown(value)}, expected one value")
    try:
        parsed = parser_of(cls, field)(str(value))
    except Exception as error:
        raise ValueError(f"{field.name} is {shown(value)}: {first_line(error)}") from error
    if isinstance(value, str) and may_be(cls, field, None):
        return parsed  # earlier versions wrote a setting that is a number or None as its text
    is_text = isinstance(parsed, (str, Path)) and isinstance(value, (str, Path))  # ~ is expanded
    if not is_text and (parsed != value or isinstance(parsed, bool) is not isinstance(value, bool)):
        raise ValueError(f"{field.name} is {shown(value)}, expected {type(parsed).__name__}")
    return parsed


def _is_dict(field: Field[Any]) -> bool:
    name = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
    return name.startswith("dict")
