"""Checks of a dataclass's fields by their annotations, where they define none of their own.

A field may be an int, a float, a bool, a str, a Literal of them, or one of these or None. A field
of any other type is checked by the type of its default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from system.argument_types import OneOf, finite_number, truth_value, whole_number

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_BY_TYPE: dict[Any, Callable[[str], Any]] = {
    int: whole_number(-(2**63), 2**63 - 1),
    float: finite_number,
    bool: truth_value,
    str: str,
}
_BY_NAME = {kind.__name__: kind for kind in _BY_TYPE}


def parser_of(cls: type[DataclassInstance], field: Field[Any]) -> Callable[[str], Any]:
    """Return the function that parses a text for a field of `cls`."""
    own: Callable[[str], Any] | None = field.metadata.get("parse")
    return own or _parser_for(_annotation(cls, field), type(field.default))


def may_be(cls: type[DataclassInstance], field: Field[Any], value: str | None) -> bool:
    """Return whether a field of `cls` names the type of `value`; False if it has its own check."""
    if "parse" in field.metadata:
        return False
    kinds = get_args(_annotation(cls, field))
    return type(value) in kinds or (value is None and None in kinds)  # the latter: in a Literal


def _annotation(cls: type[DataclassInstance], field: Field[Any]) -> Any:
    """Return a field's annotation, which may be text in the source."""
    if isinstance(field.type, str) and field.type in _BY_NAME:
        return _BY_NAME[field.type]
    try:
        return get_type_hints(cls)[field.name]
    except Exception:  # such as a name that is imported for type checkers only
        return field.type


def _parser_for(annotation: Any, default_type: type) -> Callable[[str], Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        values = {str(value): value for value in arguments if value is not None}
        one_of = OneOf(*values)
        return lambda text: values[one_of(text)]
    if origin in (Union, UnionType):
        kinds = [kind for kind in arguments if kind is not NoneType]
        kinds.sort(key=lambda kind: kind is str)  # any text is a str
        return _first_of([_parser_for(kind, default_type) for kind in kinds])
    return _BY_TYPE.get(annotation) or _BY_TYPE.get(default_type, str)


def _first_of(parsers: list[Callable[[str], Any]]) -> Callable[[str], Any]:
    """Return a function that parses by the first of the `parsers` that takes the text."""

    def parse(text: str) -> Any:
        for parser in parsers[:-1]:
            try:
                return parser(text)
            except Exception:  # the last one says what is expected
                continue
        return parsers[-1](text)

    return parse
