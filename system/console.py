"""What both programs print: lines, headings, warnings, errors and tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from colorama import Fore, Style

from system.interrupts import raise_lost_interrupt

_LONGEST_MESSAGE = 3000  # characters; a file's name or a cell of a table may have a million


def print_error(message: str) -> None:
    """Print an error line to standard error."""
    text = _one_line(message)
    print(f"{Fore.RED}{Style.BRIGHT}error:{Style.RESET_ALL} {text}", file=sys.stderr)


def print_warning(message: str) -> None:
    """Print a warning line to standard error."""
    text = _one_line(message)
    print(f"{Fore.YELLOW}warning:{Style.RESET_ALL} {text}", file=sys.stderr)


def print_note(message: str) -> None:
    """Print a line on what a long step waits for to standard error."""
    print(printable(message), file=sys.stderr)


def _one_line(message: str) -> str:
    """Return a message, `printable`; of one that quotes megabytes, its beginning and its end."""
    if len(message) > _LONGEST_MESSAGE:
        half = _LONGEST_MESSAGE // 2
        message = f"{message[:half]} ... {message[-half:]}"
    return printable(message)


def printable(text: str) -> str:
    """Escape line breaks and control characters, which names in a stranger's file may contain."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def print_line(message: str) -> None:
    """Print a line of ordinary output, or several, and flush it."""
    raise_lost_interrupt()
    print(_printable_lines(message), flush=True)


def print_heading(message: str) -> None:
    """Print a line that stands out."""
    raise_lost_interrupt()
    print(f"{Style.BRIGHT}{_printable_lines(message)}{Style.RESET_ALL}", flush=True)


def _printable_lines(message: str) -> str:
    return "\n".join(map(printable, message.split("\n")))


def fixed(value: float, digits: int, sign: str = "") -> str:
    """Return a number with this many decimals; what rounds to 0 is not negative.

    `sign` is "+" to mark numbers that are not negative.
    """
    return f"{round(value, digits) + 0:{sign}.{digits}f}"  # adding 0 turns -0 into 0


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lay out rows under a header: the first column to the left, the others to the right."""
    cells = [[printable(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
