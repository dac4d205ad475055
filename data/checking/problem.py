"""A problem of a prepared dataset, and what ends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path


class Remedy(Enum):
    """What ends a problem."""

    PREPARE = auto()  # the same command: it sees that the file is not as it was written
    FORCE = auto()  # the same command with --force: the file has the size it was written with
    AS_TOLD = auto()  # what its line says, before anything else
    NONE = auto()  # the source has it: preparing again would give the same


@dataclass(frozen=True)
class Problem:
    """A problem with a file or folder."""

    file: Path
    line: str  # tells everything, `file` too
    remedy: Remedy = Remedy.FORCE
