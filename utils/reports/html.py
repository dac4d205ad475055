"""A report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from system.files import atomic_write

_LONGEST_TEXT = 300  # characters of a cell; a strange file may hold a sentence of megabytes
_TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Table:
    """A table; with `has_names`, the first column says what the others are of."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    has_names: bool = True


@dataclass(frozen=True)
class Picture:
    """A PNG file, and what it shows, for those who cannot see it."""

    path: Path
    meaning: str

    @property
    def address(self) -> str:
        """The picture itself, as an address."""
        return f"data:image/png;base64,{b64encode(self.path.read_bytes()).decode()}"


@dataclass(frozen=True)
class Section:
    """A heading, and under it texts, tables and pictures in any order."""

    title: str
    parts: Sequence[str | Table | Picture]


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the sections to `path`, whole or not at all; texts are escaped and cut to a length."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shortened"] = _shortened
    page = environment.get_template(_TEMPLATE).render(title=title, sections=sections)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
