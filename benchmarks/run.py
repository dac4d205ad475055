"""Runs the benchmarks, saves their records in results.json, and writes README.md's tables from it.

python -m benchmarks.run [NAME ...]     run all benchmarks, or these
python -m benchmarks.run --check        only check that README.md agrees with results.json
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import Record, markdown
from system.files import atomic_write

HERE = Path(__file__).parent
BENCHMARKS = ("prepare", "text", "train", "evaluate", "busy", "scale")
RESULTS, PAGE = HERE / "results.json", HERE / "README.md"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(?:.*?\n)??(<!-- end -->)", re.DOTALL)


def rendered(page: str, results: dict[str, Record]) -> str:
    """Return the page with each of its tables replaced by that of the results."""

    def table(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        text = markdown(results[name]) if name in results else "Not measured yet."
        return f"{begin}{text}\n{end}"

    return _TABLE.sub(table, page)


def run_benchmark(name: str) -> Record:
    """Run one benchmark in a separate process; returns its record."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path)]
        subprocess.run(command, check=True, cwd=HERE.parent)
        return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, text: str) -> None:
    """Replace a file's text atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Run the benchmarks, and write both files after each, so that no result is lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if arguments.check:
        page = PAGE.read_text(encoding="utf-8")
        if page != rendered(page, results):
            sys.exit(
                f"error: the tables of {PAGE} differ from {RESULTS.name}; to write them, run "
                "python -m benchmarks.run NAME"
            )
        return
    for name in arguments.names or BENCHMARKS:
        results[name] = run_benchmark(name)
        write(RESULTS, json.dumps(results, indent=1) + "\n")
        write(PAGE, rendered(PAGE.read_text(encoding="utf-8"), results))


if __name__ == "__main__":
    main()
