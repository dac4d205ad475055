"""Writing files so that a reader finds the old content or the new, never half of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from system.errors import InputError

_SAMPLE_BLOCKS, _BLOCK_BYTES = 32, 128 * 1024  # up to 4 MB of a file


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
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
    with atomic_write(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def file_facts(path: Path) -> dict[str, Any]:
    """Return what tells a file's content from another's: name, size, and a sample's digest.

    The sample is the whole of a small file, and blocks spread over a large one. Times are left
    out: a copy is the same file. Raises InputError when there is no such file.
    """
    if not path.is_file():
        raise InputError(f"No file {path}; give the path of an existing file.")
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        for block in range(_SAMPLE_BLOCKS):
            file.seek(block * max(size - _BLOCK_BYTES, 0) // (_SAMPLE_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
    return {"name": path.name, "bytes": size, "sample": digest.hexdigest()}
