"""What all benchmarks share: options, the description of the machine, the table, the record."""

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
_MAX_OTHER_WORK = 0.05  # share of the processors

Row = dict[str, Any]
Record = dict[str, Any]


def main(
    description: str,
    columns: dict[str, str],
    add_arguments: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], Iterable[Row]],
) -> None:
    """Measure as the command line says, print the table, and write the record to --json.

    The record is written again with each row, so that a killed benchmark keeps its rows so far.
    `columns` maps each heading of the table to the format of a row under it; columns for which a
    row lacks values are left out.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the record here")
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
        filled = {heading: form for heading, form in columns.items() if _has_values(form, rows)}
        record |= {"columns": filled, "rows": rows}
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(markdown(record))


def _has_values(form: str, rows: list[Row]) -> bool:
    names = {name for _, name, _, _ in Formatter().parse(form) if name}
    return all(names <= row.keys() for row in rows)


class _OtherWork:
    """Measures the share of the processors that other programs take, from now on."""

    def __init__(self) -> None:
        self._begin = self._times()

    @staticmethod
    def _times() -> tuple[float, float, float]:
        machine, own = psutil.cpu_times(), os.times()
        busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0)
        busy -= getattr(machine, "guest", 0) + getattr(machine, "guest_nice", 0)
        return time.monotonic(), busy, sum(own[:4])  # includes child processes that ended

    def share(self) -> float:
        """Return the share, 0 to 1."""
        times = zip(self._begin, self._times(), strict=True)
        seconds, busy, own = (end - begin for begin, end in times)
        return max(busy - own, 0.0) / (seconds * (os.cpu_count() or 1))


def machine() -> str:
    """Return a line about this machine: processors, memory, GPU, system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        fields = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
        model = fields.get("model name", model)
        flags = fields.get("flags", "").split()
        model += "".join(f", {name}" for name in ("avx2", "avx512f", "amx_tile") if name in flags)
    memory = psutil.virtual_memory().total / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB{gpu}, {platform.system()}"


def _command() -> str:
    """Return the command line without --json and its path."""
    words = [f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
    if "--json" in words:
        index = words.index("--json")
        del words[index : index + 2]
    return shlex.join(["python", "-m", *words])


def markdown(record: Record) -> str:
    """Return a record as Markdown: its command, the machine and versions, and its table."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines = [f"`{record['command']}`, {record['date']}, {record['machine']}; {versions}.", ""]
    if record["other_work"] > _MAX_OTHER_WORK:
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
