"""Keeping two programs in one folder apart."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from system.errors import InputError


class FolderInUse(InputError):
    """Another process has the lock of a folder."""

    def __init__(self, what: str, folder: Path, option: str) -> None:
        self.what, self.folder = what, folder
        super().__init__(f"{what} {folder}; wait until it has ended, or give another {option}.")


@contextmanager
def lock_folder(
    folder: Path, lock: str, what_is_at_work: str, option: str, seconds: float = 0
) -> Iterator[None]:
    """Lock `folder`, which is made when missing, until the block ends.

    `lock` is the lock file's name. The operating system unlocks it when the process ends, in
    whatever way; the lock file may stay. Raises FolderInUse when another process has the lock, and
    still after `seconds`: that begins with `what_is_at_work` and names the `option` that gives
    another folder.
    """
    is_new = not folder.exists()
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / lock, timeout=seconds))
            if is_new:
                stack.callback(_remove_if_unused, folder, lock)
        except Timeout:
            raise FolderInUse(what_is_at_work, folder, option) from None
        except (FileExistsError, NotADirectoryError):  # which making the folder tells of
            raise
        except OSError as error:  # a network drive without locks, or a folder only to be read
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}); let no other program write into "
                "it meanwhile",
                stacklevel=2,
            )
        yield


def _remove_if_unused(folder: Path, lock: str) -> None:
    """Remove a folder that was made to be locked, where nothing was put into it."""
    if [path.name for path in folder.iterdir()] == [lock]:
        with suppress(OSError):  # Windows removes no open file
            (folder / lock).unlink()
            folder.rmdir()
