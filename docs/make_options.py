"""Writes options.md from the parsers of both programs: `make docs`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import dataset_prep
import main_msaf

PAGE = Path(__file__).parent / "options.md"

_INTRODUCTION = """\
# Options

`make docs` generates this page from the parsers of both programs. `--help` prints the same text.
"""
_PROGRAMS = {"dataset_prep.py": dataset_prep, "main_msaf.py": main_msaf}
_DEFAULT = re.compile(r"(.*) \(default: (.*)\)", re.DOTALL)


def options_page() -> str:
    """Return the page: a table for each group of each program's options."""
    parts = [_INTRODUCTION]
    for name, program in _PROGRAMS.items():
        parser = program.build_parser()
        parts.append(f"## `{name}`\n\n{parser.description}\n")
        parts += [_table(group) for group in parser._action_groups if _options(group)]
    return "\n".join(parts)


def _options(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    return [option for option in group._group_actions if option.dest != "help"]


def _table(group: argparse._ArgumentGroup) -> str:
    rows = [["option", "value", "default", "meaning"], ["---"] * 4]
    rows += [_row(option) for option in _options(group)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return f"### {group.title}\n\n" + "\n".join(lines) + "\n"


def _row(option: argparse.Action) -> list[str]:
    """Return what a table has of an option; its help ends with the default, where it has one."""
    text = option.help % {"default": option.default}
    found = _DEFAULT.fullmatch(text)
    meaning, default = found.groups() if found else (text, "off" if option.nargs == 0 else "")
    cells = [_value(option), default, meaning]
    return [f"`{option.option_strings[0]}`", *(cell.replace("|", "\\|") for cell in cells)]


def _value(option: argparse.Action) -> str:
    if option.nargs == 0:
        return ""
    names = option.choices or (option.metavar or option.dest.upper()).strip("{}").split(",")
    return ", ".join(f"`{name}`" for name in names) + (" ..." if option.nargs == "+" else "")


if __name__ == "__main__":
    PAGE.write_text(options_page(), encoding="utf-8")
