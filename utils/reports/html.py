"""Reports as self-contained HTML files: without network, scripts or other files."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from system.console import print_warning, printable
from system.errors import described
from system.files import write_bytes

_MAX_UNBROKEN = 24  # characters of a cell that stays in one line
_MAX_TEXT = 300  # characters of a cell; a strange file may hold a sentence of megabytes
_MAX_NAME = 100  # characters of a name in a paragraph
_COLORS = 128
_TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Cell:
    """A value of a table that is highlighted."""

    value: Any
    is_best: bool = False
    share: float = 0.0  # of the column's largest value: the length of a bar behind the text


@dataclass(frozen=True)
class Table:
    """A table, whose first column has the headings of the rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]  # values or Cells


@dataclass(frozen=True)
class Picture:
    """A PNG file, and an alternative text that says what it shows."""

    path: Path
    meaning: str
    is_wide: bool = False  # of several panels: scrolls on a narrow screen
    is_whole: bool = False  # is never scaled down; stored in few colours, as it is large

    @cached_property
    def address(self) -> str:
        """The picture itself, as a data URL."""
        content = _in_few_colors(self.path) if self.is_whole else self.path.read_bytes()
        return f"data:image/png;base64,{b64encode(content).decode()}"


@dataclass(frozen=True)
class Section:
    """A heading, and below it texts, tables and pictures in any order."""

    title: str
    parts: Sequence[str | Table | Picture]


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the sections to `path`, atomically.

    Texts are escaped and in one line, those of cells and titles cut to a length; control characters
    are spelled out. Paragraphs are whole: cut the names in them (`short_name`).
    """
    write_bytes(path, _template().render(title=title, sections=sections).encode())


@cache
def _template() -> Template:
    """Compile the reports' template; a study writes many."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(plain=_plain, paragraph=_in_a_line, cell=_cell)
    return environment.get_template(_TEMPLATE)


@contextmanager
def warning_if_unwritten(path: Path) -> Iterator[None]:
    """Turn any error of a report into a warning, as its content is in other files too."""
    try:
        yield
    except Exception as error:  # a failed report must not lose finished work
        reason = described(error)
        print_warning(f"{path} is not written ({reason}); all other results are.")


def _in_few_colors(path: Path) -> bytes:
    """Return a PNG file with fewer colours, of about a third of the bytes."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(_COLORS).save(content, "PNG", optimize=True)
    return content.getvalue()


def _cell(value: Any) -> dict[str, Any]:
    """Return a cell's fields, its text, and whether the text stays in one line."""
    cell = value if isinstance(value, Cell) else Cell(value)
    text = _plain(cell.value)
    return {**vars(cell), "text": text, "is_short": len(text) <= _MAX_UNBROKEN}


def short_name(name: object) -> str:
    """Return a name as text, cut to a length at which the sentence around it stays readable."""
    return _cut(str(name), _MAX_NAME)


def _plain(value: Any) -> str:
    return _in_a_line("-" if value is None else _cut(str(value), _MAX_TEXT))


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def _in_a_line(text: str) -> str:
    return printable(" ".join(text.split()))
