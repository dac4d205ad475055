"""Compiling C++ for this machine, once, and loading what was compiled."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from system.files import flush_file, flush_folder

Library = TypeVar("Library")

# Without -ffast-math: rounding by adding and subtracting, and not-a-number, must stay.
_FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-pthread", "-fPIC", "-shared")
# Some of Apple's compilers know no native processor on ARM, and take it for granted.
_PROCESSOR_FLAGS = (("-march=native",), ())
_TOLERANCE = 1e-4  # of a tensor's largest value: rounding gives a tenth of that


class Unavailable(Exception):
    """There is no compiled code here; the message says why."""


def require_same(what: str, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise Unavailable when what compiled code computes is not what the formula gives."""
    for ours, theirs in zip(found, expected, strict=True):
        if not (ours - theirs).abs().max() <= _TOLERANCE * theirs.abs().max():
            raise Unavailable(f"the compiled {what} computes wrong numbers")


def load_or_warn(
    source: Path, make: Callable[[ctypes.CDLL], Library], **macros: int
) -> Library | str:
    """Return what `load` returns, or why there is none, of which one warning tells."""
    try:
        return load(source, make, **macros)
    except Unavailable as problem:
        # Of this line: that there is no compiler is told once, whoever wants one.
        warnings.warn(f"{problem}; a step takes up to three times as long", stacklevel=1)
        return str(problem)


def load(source: Path, make: Callable[[ctypes.CDLL], Library], **macros: int) -> Library:
    """Return what `make` makes of the library compiled from a C++ file and the headers beside it.

    The compiler is $CXX, or c++. What was compiled before comes from the cache, where a library's
    name has the digest of its content: one that does not fit its name is never opened, and one
    that `make` refuses by raising Unavailable is compiled anew. Raises Unavailable when there is
    no library to be had.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
        if shutil.which(compiler[0]) is None:
            raise Unavailable(f"there is no C++ compiler {compiler[0]}")
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
        command = [*compiler, *_FLAGS, *(f"-D{name}={value}" for name, value in macros.items())]
        files = [source, *sorted(source.parent.glob("*.h"))]
        made_of = [repr((command, _PROCESSOR_FLAGS)).encode(), version, _processor().encode()]
        made_of += [file.read_bytes() for file in files]
        stem = f"{source.stem}-{hashlib.sha256(b''.join(made_of)).hexdigest()[:16]}"
        folder = _cache()
        for path in sorted(folder.glob(f"{stem}-*.so")):
            try:
                return make(_open(path))
            except (OSError, Unavailable):  # damaged, or made on a machine with other libraries
                path.unlink(missing_ok=True)
        return make(_open(_compile([*command, str(source)], folder, stem)))
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if "error" in line]
        reason = errors[0] if errors else f"exit status {error.returncode}"
        raise Unavailable(f"{compiler[0]} does not compile {source.name}: {reason}") from error
    # No home directory is a RuntimeError, quotes that do not match in $CXX a ValueError.
    except (OSError, RuntimeError, ValueError) as error:
        raise Unavailable(f"{source.name} could not be compiled and loaded: {error}") from error


def _open(path: Path) -> ctypes.CDLL:
    """Open a library after reading it: mapping a damaged one can end the process."""
    if not path.stem.endswith(f"-{_digest(path)}"):
        raise OSError(f"{path} is damaged")
    return ctypes.CDLL(str(path))


def _compile(command: Sequence[str], folder: Path, stem: str) -> Path:
    """Compile into `folder`, and return the path; it is on the disk whole before it has its name.

    Whoever else compiles the same meanwhile does not matter.
    """
    with tempfile.TemporaryDirectory(dir=folder) as own:
        temporary = Path(own) / "library.so"
        for flags in _PROCESSOR_FLAGS:
            done = subprocess.run([*command, *flags, "-o", str(temporary)], capture_output=True)
            if done.returncode == 0:
                break
        done.check_returncode()
        path = folder / f"{stem}-{_digest(temporary)}.so"
        flush_file(temporary)
        temporary.replace(path)
        flush_folder(folder)
    return path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
