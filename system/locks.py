"""Locks that keep two programs from working in one folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from system.errors import InputError


class FolderInUse(InputError):
    """Another process has the lock of a folder."""

    def __init__(self, activity: str, folder: Path, option: str) -> None:
        self.activity, self.folder = activity, folder
        super().__init__(f"{activity} {folder}; wait until it has ended, or give another {option}.")


@contextmanager
def lock_folder(
    folder: Path, lock: str, activity: str, option: str, seconds: float = 0
) -> Iterator[None]:
    """Lock `folder`, which is made when missing, until the block ends.

    `lock` is the lock file's name. The operating system releases the lock when the process ends,
    in whatever way; the lock file may stay. Raises FolderInUse when another process still has the
    lock after `seconds`: the message begins with the other's `activity` ("Another training is
    writing into") and names the `option` that gives another folder.
    """
    is_new = not folder.exists()
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / lock, timeout=seconds))
            if is_new:
                stack.callback(_remove_if_unused, folder, lock)
        except Timeout:
            raise FolderInUse(activity, folder, option) from None
        except (FileExistsError, NotADirectoryError):  # the folder cannot be made
            raise
        except OSError as error:  # a network drive without locks, or a read-only folder
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}); let no other program write into "
                "it while this one runs",
                stacklevel=2,
            )
        yield


def _remove_if_unused(folder: Path, lock: str) -> None:
    """Remove a folder that was made for its lock, where nothing was written into it."""
    if [path.name for path in folder.iterdir()] == [lock]:
        with suppress(OSError):  # Windows removes no open file
            (folder / lock).unlink()
            folder.rmdir()
