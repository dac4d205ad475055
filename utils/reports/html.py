"""A report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from system.console import print_warning, printable
from system.errors import described
from system.files import write_bytes

_LONGEST_UNBROKEN = 24  # characters of a cell that stays in one line
_LONGEST_TEXT = 300  # characters of a cell; a strange file may hold a sentence of megabytes
_COLORS = 128
_TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Cell:
    """A value of a table that stands out."""

    value: Any
    is_best: bool = False
    share: float = 0.0  # of the column's largest value: a bar behind the text is as long


@dataclass(frozen=True)
class Table:
    """A table, whose first column says what the others are of."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]  # values or Cells


@dataclass(frozen=True)
class Picture:
    """A PNG file, and what it shows, for those who cannot see it."""

    path: Path
    meaning: str
    is_wide: bool = False  # of several panels, which stay readable on a narrow screen
    is_whole: bool = False  # as large as it is on every screen; in few colours, for it is large

    @cached_property
    def address(self) -> str:
        """The picture itself, as an address."""
        content = _in_few_colors(self.path) if self.is_whole else self.path.read_bytes()
        return f"data:image/png;base64,{b64encode(content).decode()}"


@dataclass(frozen=True)
class Section:
    """A heading, and under it texts, tables and pictures in any order."""

    title: str
    parts: Sequence[str | Table | Picture]


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the sections to `path`, whole or not at all.

    Texts are escaped, cut to a length, and in one line; control characters are spelled out.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _plain
    environment.filters["cell"] = _cell
    page = environment.get_template(_TEMPLATE).render(title=title, sections=sections)
    write_bytes(path, page.encode())


@contextmanager
def warning_if_unwritten(path: Path) -> Iterator[None]:
    """Let a report that cannot be made end in a warning: what it shows is in other files too."""
    try:
        yield
    except Exception as error:  # whatever it is, the work that it tells of is done
        reason = described(error)
        print_warning(f"{path} is not written ({reason}); all other results are.")


def _in_few_colors(path: Path) -> bytes:
    """Return a PNG file's picture as one of a third of the bytes."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(_COLORS).save(content, "PNG", optimize=True)
    return content.getvalue()


def _cell(value: Any) -> dict[str, Any]:
    """Return a cell's text, whether it is the best, its bar, and whether it stays in one line."""
    cell = value if isinstance(value, Cell) else Cell(value)
    text = _plain(cell.value)
    return {**vars(cell), "text": text, "is_short": len(text) <= _LONGEST_UNBROKEN}


def _plain(value: Any) -> str:
    text = "-" if value is None else str(value)
    text = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
    return printable(" ".join(text.split()))
