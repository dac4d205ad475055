"""Keeping two preparations in one folder apart."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from system.errors import InputError

LOCK = ".preparing.lock"


@contextmanager
def lock_folder(datadir: Path) -> Iterator[None]:
    """Lock `datadir`, which is made when missing, until the block ends.

    The operating system unlocks it when the process ends, in whatever way; the lock file may
    stay. Raises InputError when another process holds the lock.
    """
    is_new = not datadir.exists()
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(datadir / LOCK, timeout=0))
            if is_new:
                stack.callback(_remove_if_unused, datadir)
        except Timeout:
            raise InputError(
                f"Another preparation is working in {datadir}; wait until it has ended, or give "
                "another --datadir."
            ) from None
        except OSError as error:  # a network drive without locks, or a dataset only to be read
            warnings.warn(
                f"{datadir} cannot be locked ({error.strerror}); let no other preparation work in "
                "it meanwhile",
                stacklevel=2,
            )
        yield


def _remove_if_unused(datadir: Path) -> None:
    """Remove a folder that was made for a preparation which then put nothing into it."""
    if [path.name for path in datadir.iterdir()] == [LOCK]:
        with suppress(OSError):  # Windows removes no open file
            (datadir / LOCK).unlink()
            datadir.rmdir()
