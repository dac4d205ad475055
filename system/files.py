"""Writing files so that a reader finds the old content or the new, never half of it.

A file gets its name only after its content is on the disk, so that this holds after a power cut
as well as after a kill. `flush_file` and `flush_folder` do the same for files written elsewhere.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import Any

from system.errors import InputError, explain_reading, shown

_SAMPLE_BLOCKS, _BLOCK_BYTES = 32, 128 * 1024  # up to 4 MB of a file
_SETTLED_AFTER = 10**9  # nanoseconds since a file's last change
# Writing a file takes seconds. A temporary file that no process, on any machine, has written to
# for an hour was left by a killed one.
_ABANDONED_AFTER = 3600  # seconds
_FLUSHES_AT_ONCE = 32
LONGEST_NAME = 255  # bytes: the limit of file systems


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it becomes `path`.

    Content and name are on the disk when this returns. If the block raises, the temporary file
    is removed and `path` keeps its content. The parent folder is made when missing. Any number
    of writers may work at once: each has its own temporary file, and the last one to end counts.
    """
    make_folder(path.parent)
    _remove_abandoned(path)
    # Same folder, so that the rename cannot cross file systems; same suffix, because some
    # writers (matplotlib, NumPy) choose the format by it.
    temporary = path.with_name(f".{_temporary_stem(path)}.{os.urandom(6).hex()}.part{path.suffix}")
    try:
        yield temporary
        flush_file(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None:  # without one, Python would print the name instead of the text
            error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def _temporary_stem(path: Path) -> str:
    """Return the part of a file's name that the names of its temporary files contain."""
    return cut_name(path.stem, LONGEST_NAME - len(f"..{'?' * 12}.part") - len(path.suffix))


def move_file(source: Path, target: Path) -> None:
    """Rename a file; where `target` is on another disk, copy it there and remove the source.

    If killed, `target` is old or new, and the source is still there as long as it is old.
    """
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
        source.unlink()


def cut_name(name: str, max_bytes: int) -> str:
    """Return the beginning of a file's name, of at most `max_bytes`, in whole characters."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore")


def make_folder(path: Path) -> None:
    """Make a folder and its parents where missing, and flush their names to the disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush_folder(path.parent)


def check_writable(folder: Path) -> None:
    """Make a folder where missing; raises OSError that names it when no file can be made in it."""
    make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        error.filename = str(folder)  # not the temporary file's
        raise


def flush_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system supports that."""
    try:
        flush_file(path)
    except OSError as error:  # Windows opens no folder, and some network drives flush none
        if error.errno not in (errno.EACCES, errno.EINVAL):
            raise


def flush_all(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Wait until the content of files, and the names in folders, are on the disk.

    They are flushed in parallel: for many, a disk takes little longer than for one.
    """
    with ThreadPoolExecutor(_FLUSHES_AT_ONCE) as executor:
        tasks = [executor.submit(flush_file, path) for path in files]
        tasks += [executor.submit(flush_folder, path) for path in folders]
    for task in tasks:
        task.result()


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` that killed writers left."""
    for leftover in path.parent.glob(
        f".{escape(_temporary_stem(path))}.{'?' * 12}.part{escape(path.suffix)}"
    ):
        with suppress(FileNotFoundError):  # another writer has removed it
            if time.time() - leftover.stat().st_mtime > _ABANDONED_AFTER:
                leftover.unlink()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path`, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # A file name that is no UTF-8 is written as JSON writes half characters, \udcff.
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, its header first, to `path`, atomically."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def read_json(path: Path, advice: str = "") -> Any:
    """Read JSON; raises InputError, which ends with `advice`, when the file is not JSON."""
    try:
        with explain_reading(path):
            text = path.read_text(encoding="utf-8-sig")  # some editors put a mark in front
            return json.loads(text, object_pairs_hook=_dict_of_unique_names)
    except (ValueError, RecursionError) as error:  # no UTF-8, digits without end, nested too deep
        raise InputError(f"{path} is not JSON: {error}{advice}.") from error


def read_dict(path: Path) -> dict[str, Any] | None:
    """Return the dict in a JSON file; None where there is none that can be read."""
    with suppress(OSError, InputError):
        content = read_json(path) if path.is_file() else None  # a pipe would be waited for
        return content if isinstance(content, dict) else None
    return None


def _dict_of_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dict; raises ValueError for a repeated name, of which a dict keeps only the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {shown(repeated)} is there twice")
    return values


def not_a_file(path: Path) -> str:
    """Return what is wrong with a path that is no regular file, the beginning of a message."""
    return f"{path} is a folder, pipe or device" if path.exists() else f"No file {path}"


def file_facts(path: Path, is_timed: bool = False) -> dict[str, Any]:
    """Return facts that identify a file's content: name, size, and a sample's digest.

    The sample is the whole of a small file, and blocks spread over a large one. With `is_timed`,
    a large file's facts include its modification time: no change between the blocks is missed,
    but a copy may count as another file. Raises InputError when there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{not_a_file(path)}; give the path of an existing file.")
    status = path.stat()
    size = status.st_size
    identity = status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    # Two changes within one tick of the system's clock have the same time.
    is_settled = time.time_ns() - status.st_ctime_ns > _SETTLED_AFTER
    read = _digest_of_sample if is_settled else _digest_of_sample.__wrapped__
    sample = read(path, size, *identity)
    facts: dict[str, Any] = {"name": path.name, "bytes": size, "sample": sample}
    if is_timed and size > _SAMPLE_BLOCKS * _BLOCK_BYTES:
        facts["modified"] = status.st_mtime_ns
    return facts


@lru_cache(maxsize=256)  # a study looks at the same files before each of its runs
def _digest_of_sample(path: Path, size: int, *_identity: int) -> str:
    """Return the digest of a file's sample; it is read again when it or its `_identity` changes."""
    digest = hashlib.sha256()
    with explain_reading(path), path.open("rb") as file:
        for block in range(_SAMPLE_BLOCKS):
            file.seek(block * max(size - _BLOCK_BYTES, 0) // (_SAMPLE_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def whole_digest(path: Path) -> str:
    """Return the SHA-256 of a whole file."""
    digest = hashlib.sha256()
    with explain_reading(path), path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
