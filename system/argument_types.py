"""Types of command-line options, and of the settings that they become."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from system.errors import shown

Number = TypeVar("Number", int, float)

_LARGEST = 2**31 - 1  # of whole numbers, which PyTorch and NumPy take everywhere


def _number(
    kind: Callable[[str], Number], expected: str, is_valid: Callable[[Number], bool]
) -> Callable[[str], Number]:
    """Make an argparse type: a number that `is_valid` accepts; NaN must not pass."""

    def parse(text: str) -> Number:
        with suppress(ValueError):
            if is_valid(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {shown(text)}")

    return parse


def whole_number(minimum: int, maximum: int = _LARGEST) -> Callable[[str], int]:
    """Make an argparse type: a whole number of at least `minimum`, at most `maximum`."""
    expected = f"a whole number of at least {minimum} and at most {maximum}"
    return _number(int, expected, lambda value: minimum <= value <= maximum)


finite_number = _number(float, "a number", math.isfinite)
positive_number = _number(float, "a number above 0", lambda value: 0 < value < math.inf)
number_from_zero = _number(float, "a number of at least 0", lambda value: 0 <= value < math.inf)
positive_share = _number(float, "a number above 0, below 1", lambda value: 0 < value < 1)
share_below_one = _number(float, "a number from 0, below 1", lambda value: 0 <= value < 1)


def as_argument(path: Path | str) -> str:
    """Return a path as a word for a shell that no program takes for an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def truth_value(text: str) -> bool:
    """Parse an argparse value: true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {shown(text)}")
    return text.lower() == "true"


class OneOf:
    """An argparse type: one of the `names`."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, text: str) -> str:
        """Return `text` if it is a name."""
        if text not in self.names:
            expected = " or ".join(self.names)
            raise argparse.ArgumentTypeError(f"expected {expected}, got {shown(text)}")
        return text


def some_text(text: str) -> str:
    """Parse an argparse value: a text that is not empty, as that of an unset variable is."""
    if not text:
        raise argparse.ArgumentTypeError(f"expected a value, got {shown(text)}")
    return text


def file_path(text: str) -> Path:
    """Parse an argparse value: a path, in which ~ is the home directory."""
    try:
        if b"\0" in os.fsencode(some_text(text)):
            raise ValueError("no path has a zero character")
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"there is no home directory for {shown(text)}") from error
    except ValueError as error:  # or half a character, which a JSON file may have
        raise argparse.ArgumentTypeError(f"expected a path, got {shown(text)}") from error


def name_or_path(text: str) -> str:
    """Parse an argparse value: a name, or a path, in which ~ is the home directory."""
    path = file_path(text)
    return str(path) if text.startswith("~") else text


def device_name(text: str) -> str:
    """Parse an argparse value: auto, cpu, cuda or cuda:N."""
    if re.fullmatch("auto|cpu|cuda(:(0|[1-9][0-9]?))?", text):
        return text
    raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N, got {shown(text)}")
