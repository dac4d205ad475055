"""Compiling C++ for this machine, once."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

# Without -ffast-math: rounding by adding and subtracting, and not-a-number, must stay.
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")


class Unavailable(Exception):
    """There is no compiled code here; the message says why."""


def load(source: Path, **macros: int) -> ctypes.CDLL:
    """Return the library that $CXX or c++ makes of a C++ file, and of the headers beside it.

    It comes from the cache if it was made before. Raises Unavailable when it cannot be made.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
        if shutil.which(compiler[0]) is None:
            raise Unavailable(f"there is no C++ compiler {compiler[0]}")
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
        command = [*compiler, *_FLAGS, *(f"-D{name}={value}" for name, value in macros.items())]
        files = [source, *sorted(source.parent.glob("*.h"))]
        made_of = [repr(command).encode(), version, _processor().encode()]
        made_of += [file.read_bytes() for file in files]
        name = f"{source.stem}-{hashlib.sha256(b''.join(made_of)).hexdigest()[:16]}.so"
        return _loaded([*command, str(source)], _cache() / name)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        told = [line for line in lines if "error" in line] or [f"exit status {error.returncode}"]
        raise Unavailable(f"{compiler[0]} does not compile {source.name}: {told[0]}") from error
    # No home directory is a RuntimeError, quotes that do not match in $CXX a ValueError.
    except (OSError, RuntimeError, ValueError) as error:
        raise Unavailable(f"{source.name} could not be compiled and loaded: {error}") from error


def _loaded(command: list[str], library: Path) -> ctypes.CDLL:
    if library.exists():
        try:
            return ctypes.CDLL(str(library))
        except OSError:  # damaged, or made on a machine with other libraries
            pass
    _compile(command, library)
    return ctypes.CDLL(str(library))


def _compile(command: list[str], library: Path) -> None:
    """Write `library` whole or not at all, whoever else is writing it."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        temporary = Path(folder) / library.name
        subprocess.run([*command, "-o", str(temporary)], capture_output=True, check=True)
        temporary.replace(library)


def _cache() -> Path:
    """Return this user's folder for compiled code, where nobody else can put any."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nhfnet"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise Unavailable(f"{folder} is not this user's alone: others may write into it")
    return folder


def _processor() -> str:
    """Return what -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
