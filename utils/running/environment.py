"""Describes the command, the software versions and the machine of a run."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from system.cpus import usable_cpus
from system.passwords import without_passwords

_PACKAGES = ("torch", "numpy", "scikit-learn")


def command_line() -> str:
    """Return the command that started this program, without passwords: run.json may be shared."""
    return shlex.join(map(without_passwords, sys.argv))


def environment(device: torch.device) -> dict[str, Any]:
    """Return the packages' versions, this program's git revision, and the machine."""
    is_cuda = device.type == "cuda"
    return {
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
        "revision": _revision(),
        "machine": {
            "platform": platform.platform(),
            "processors": usable_cpus(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if is_cuda else str(device),
        },
    }


def _revision() -> str | None:
    """Return the git revision, marked `-dirty` if files differ from it; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
