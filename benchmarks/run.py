"""Run the benchmarks, keep what they found in results.json, and set README.md's tables from it.

python -m benchmarks.run [NAME ...]     all, or those named
python -m benchmarks.run --check        only tell whether README.md agrees with results.json
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
    """Return the page with each of its tables as the results have it."""

    def table(place: re.Match[str]) -> str:
        record = results.get(place[2])
        text = "Not measured yet." if record is None else markdown(record)
        return f"{place[1]}{text}\n{place[3]}"

    return _TABLE.sub(table, page)


def measured(name: str) -> Record:
    """Run one benchmark in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path)]
        subprocess.run(command, check=True, cwd=HERE.parent)
        return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, text: str) -> None:
    """Replace a file's text, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure and write after each benchmark, so that nothing found is lost."""
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
                f"error: {PAGE} is not what {RESULTS.name} says; set it by python -m benchmarks.run"
            )
        return
    for name in arguments.names or BENCHMARKS:
        results[name] = measured(name)
        write(RESULTS, json.dumps(results, indent=1) + "\n")
        write(PAGE, rendered(PAGE.read_text(encoding="utf-8"), results))


if __name__ == "__main__":
    main()
