"""Writing files so that a reader finds the old content or the new, never half of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it becomes `path`.

    The content is on disk before the name changes. If the block raises, the temporary
    file is removed and `path` keeps what it held. The parent folder is made when missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, so that the rename cannot cross file systems; same suffix, because
    # some writers (matplotlib, NumPy) choose the format by it; the same name always, so that
    # what a kill leaves is written over by the next attempt.
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    with replacing(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def file_facts(path: Path) -> dict[str, Any]:
    """Return what tells a file from another of its name: size and time of change.

    Raises InputError when there is no such file.
    """
    if not path.is_file():
        raise InputError(f"No file {path}.")
    status = path.stat()
    return {"name": path.name, "bytes": status.st_size, "modified": status.st_mtime_ns}
