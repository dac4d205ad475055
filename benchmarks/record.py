"""What every benchmark does around its measuring: options, the machine, the table, the record."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from string import Formatter
from typing import Any

import psutil
import torch

ROOT = Path(__file__).parent.parent
_QUIET = 0.05  # of the processors, that other work may take

Row = dict[str, Any]
Record = dict[str, Any]


def main(
    description: str,
    columns: dict[str, str],
    add_arguments: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], Iterable[Row]],
) -> None:
    """Measure as the command line says, print the table, and write the record where it is asked.

    It is written again with each row: what was found before an end by force is kept. `columns`
    are the table's headings, each with how a row is formatted under it; those of which the rows
    have nothing are left out.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there, too")
    arguments = parser.parse_args()
    begin, other_work = datetime.now(timezone.utc), _OtherWork()
    record: Record = {
        "command": _command(),
        "date": begin.date().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy", "h5py")},
    }
    rows: list[Row] = []
    for row in measure(arguments):
        rows.append(row)
        record["other_work"] = round(other_work.share(), 3)
        fitting = {heading: form for heading, form in columns.items() if _fits(form, rows)}
        record |= {"columns": fitting, "rows": rows}
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(markdown(record))


def _fits(form: str, rows: list[Row]) -> bool:
    names = {name for _, name, _, _ in Formatter().parse(form) if name}
    return all(names <= row.keys() for row in rows)


class _OtherWork:
    """How much of the processors others take, from now on."""

    def __init__(self) -> None:
        self._begin = self._times()

    @staticmethod
    def _times() -> tuple[float, float, float]:
        all_of_it, own = psutil.cpu_times(), os.times()
        busy = sum(all_of_it) - all_of_it.idle - getattr(all_of_it, "iowait", 0)
        busy -= getattr(all_of_it, "guest", 0) + getattr(all_of_it, "guest_nice", 0)
        return time.monotonic(), busy, sum(own[:4])  # children that ended are in it

    def share(self) -> float:
        """Return the share, 0 to 1."""
        seconds, busy, own = (b - a for a, b in zip(self._begin, self._times(), strict=True))
        return max(busy - own, 0.0) / (seconds * (os.cpu_count() or 1))


def machine() -> str:
    """Return what this machine is, in a line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        fields = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
        model = fields.get("model name", model)
        known = ("avx2", "avx512f", "amx_tile")
        model += "".join(f", {name}" for name in known if name in fields.get("flags", "").split())
    memory = psutil.virtual_memory().total / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB{gpu}, {platform.system()}"


def _command() -> str:
    """Return the command line without where the record goes."""
    words = [f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
    if "--json" in words:
        at = words.index("--json")
        del words[at : at + 2]
    return shlex.join(["python", "-m", *words])


def markdown(record: Record) -> str:
    """Return a record as its command, what it ran on, and its table."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines = [f"`{record['command']}`, {record['date']}, {record['machine']}; {versions}.", ""]
    if record["other_work"] > _QUIET:
        share = f"{100 * record['other_work']:.0f} %"
        lines[1:1] = [
            f"**Other work took {share} of the machine: these figures are not to be trusted.**"
        ]
    lines.append("| " + " | ".join(record["columns"]) + " |")
    lines.append("|---" * len(record["columns"]) + "|")
    for row in record["rows"]:
        cells = (form.format_map(row) for form in record["columns"].values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
