"""Compiling C++ for this machine, once, and loading the library."""

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

from system.files import whole_digest, write_bytes

Library = TypeVar("Library")

# Without -ffast-math, which breaks NaN, and rounding by adding and subtracting a number.
_FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-pthread", "-fPIC", "-shared")
# On ARM, some of Apple's compilers reject -march=native, which is their default there.
_PROCESSOR_FLAGS = (("-march=native",), ())
_TOLERANCE = 1e-4  # of a tensor's largest value; rounding errors are a tenth of it


class Unavailable(Exception):
    """Compiled code cannot be used; the message says why."""


def require_same(label: str, actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise Unavailable when the results of compiled code are not those of the formula."""
    for ours, reference in zip(actual, expected, strict=True):
        if not (ours - reference).abs().max() <= _TOLERANCE * reference.abs().max():
            raise Unavailable(f"the compiled {label} computes wrong numbers")


def load_or_warn(
    source: Path, make: Callable[[ctypes.CDLL], Library], **macros: int
) -> Library | str:
    """Return the result of `load`, or, after one warning, the reason why there is none."""
    try:
        return load(source, make, **macros)
    except Unavailable as problem:
        # From this line, so that Python warns only once of a missing compiler.
        warnings.warn(f"{problem}; a step takes up to three times as long", stacklevel=1)
        return str(problem)


def load(source: Path, make: Callable[[ctypes.CDLL], Library], **macros: int) -> Library:
    """Return the result of `make` for the library of a C++ file and the headers in its folder.

    The compiler is $CXX, or c++. Libraries are cached, and a library's name contains the digest of
    its content: one that does not match its name is never opened. One for which `make` raises
    Unavailable is compiled anew. Raises Unavailable when there is no usable library.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
        if shutil.which(compiler[0]) is None:
            raise Unavailable(f"there is no C++ compiler {compiler[0]}")
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
        command = [*compiler, *_FLAGS, *(f"-D{name}={value}" for name, value in macros.items())]
        files = [source, *sorted(source.parent.glob("*.h"))]
        inputs = [repr((command, _PROCESSOR_FLAGS)).encode(), version, _processor().encode()]
        inputs += [file.read_bytes() for file in files]
        stem = f"{source.stem}-{hashlib.sha256(b''.join(inputs)).hexdigest()[:16]}"
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
    # A missing home directory is a RuntimeError, unbalanced quotes in $CXX a ValueError.
    except (OSError, RuntimeError, ValueError) as error:
        raise Unavailable(f"{source.name} could not be compiled and loaded: {error}") from error


def _open(path: Path) -> ctypes.CDLL:
    """Open a library after checking its content: mapping a damaged one can end the process."""
    if not path.stem.endswith(f"-{whole_digest(path)}"):
        raise OSError(f"{path} is damaged")
    return ctypes.CDLL(str(path))


def _compile(command: Sequence[str], folder: Path, stem: str) -> Path:
    """Compile into `folder`, and return the path; others may compile the same at the same time."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary_folder:
        temporary = Path(temporary_folder) / "library.so"
        environment = {**os.environ, "TMPDIR": temporary_folder}  # also what a killed one leaves
        for flags in _PROCESSOR_FLAGS:
            call = [*command, *flags, "-o", str(temporary)]
            result = subprocess.run(call, capture_output=True, env=environment)
            if result.returncode == 0:
                break
        result.check_returncode()
        path = folder / f"{stem}-{whole_digest(temporary)}.so"
        write_bytes(path, temporary.read_bytes())
    return path


def _cache() -> Path:
    """Return this user's folder for compiled code, into which nobody else can write."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nhfnet"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise Unavailable(f"{folder} is not this user's alone: others may write into it")
    return folder


def _processor() -> str:
    """Return the processor's features, on which -march=native depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
