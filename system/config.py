"""Settings as frozen dataclasses: each with its default, its meaning and its check in one place.

A field's check is a function that parses text. The command line uses it directly; a value that
comes from a file must be what its own text parses to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from system.console import finite_number, truth_value, whole_number
from system.errors import InputError, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")

# Of fields that bring no check of their own, as in a user's model. Annotations are text.
_BY_TYPE: dict[str, Callable[[str], Any]] = {
    "int": whole_number(-(2**63), 2**63 - 1),
    "float": finite_number,
    "bool": truth_value,
    "str": str,
}


def setting(default: Any, parse: Callable[[str], Any], meaning: str = "") -> Any:
    """Declare a dataclass field; `parse` raises ValueError or ArgumentTypeError on bad text."""
    return field(default=default, metadata={"parse": parse, "meaning": meaning})


@dataclass(frozen=True)
class CheckedConfig:
    """A base for configurations that check themselves; raises ValueError with one line."""

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, _checked(one, getattr(self, one.name)))


def make_config(cls: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """Make a dataclass of `values` that come from outside; the others keep their defaults.

    Raises InputError, which begins with `where`, for a name that the dataclass lacks, and for a
    value of another type or out of range.
    """
    known = {name: _field_of(cls, name, where) for name in values}
    try:
        return cls(**{name: _checked(known[name], value) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}.") from error


def check_setting(cls: type[DataclassInstance], name: str, value: Any, where: str) -> Any:
    """Return one value as a dataclass's field gives it; the others play no part.

    Raises InputError as `make_config` does.
    """
    one = _field_of(cls, name, where)
    try:
        return _checked(one, value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}.") from error


def parse_assignments(
    cls: type[DataclassInstance], assignments: Sequence[str], where: str
) -> dict[str, Any]:
    """Parse texts KEY=VALUE by the fields of a dataclass, later ones first in rank.

    Raises InputError for a text without `=`, a key that the dataclass lacks, or a bad value.
    """
    values = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{where} {text}: expected KEY=VALUE.")
        one = _field_of(cls, name, f"{where} {text}")
        try:
            values[name] = _parse_of(one)(value)
        except Exception as error:
            raise InputError(f"{where} {text}: {_reason(error)}.") from error
    return values


def plain_values(config: DataclassInstance) -> dict[str, Any]:
    """Return a configuration's values as JSON has them; paths become text."""
    return {
        name: value if isinstance(value, (bool, int, float, dict, type(None))) else str(value)
        for name, value in asdict(config).items()
    }


def _field_of(cls: type[DataclassInstance], name: str, where: str) -> Field[Any]:
    known = {one.name: one for one in fields(cls)}
    if name not in known:
        expected = ", ".join(known) or "none"
        raise InputError(f"{where}: there is no setting {shown(name)}, only: {expected}.")
    return known[name]


def _checked(one: Field[Any], value: Any) -> Any:
    """Return `value` as the field's check gives it; raises ValueError when it does not pass."""
    is_dict = _type_of(one).startswith("dict") and isinstance(value, dict)
    if is_dict or (value is None and one.default is None):
        return value
    if not isinstance(value, (bool, int, float, str, Path)):
        raise ValueError(f"{one.name} is {shown(value)}, expected one value")
    try:
        parsed = _parse_of(one)(str(value))
    except Exception as error:
        raise ValueError(f"{one.name} is {shown(value)}: {_reason(error)}") from error
    is_path = isinstance(parsed, Path) and isinstance(value, (str, Path))
    if not is_path and (parsed != value or isinstance(parsed, bool) is not isinstance(value, bool)):
        raise ValueError(f"{one.name} is {shown(value)}, expected {type(parsed).__name__}")
    return parsed


def _parse_of(one: Field[Any]) -> Callable[[str], Any]:
    return one.metadata.get("parse") or _BY_TYPE.get(_type_of(one), str)


def _type_of(one: Field[Any]) -> str:
    return one.type if isinstance(one.type, str) else one.type.__name__


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
