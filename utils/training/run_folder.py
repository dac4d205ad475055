"""The folder of one run, which no other run writes into."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from system.console import print_line
from system.errors import InputError
from system.locks import lock_folder

BEST = "best.pth"
LAST = "last.pth"  # what --resume reads
RUN_FILE = "run.json"
HISTORY = "metrics.csv"
LOGS = "logs"  # for TensorBoard
_LOCK = ".run.lock"
_RUN_FILES = re.compile(
    rf"{re.escape(BEST)}|{re.escape(LAST)}|{re.escape(RUN_FILE)}|{re.escape(HISTORY)}"
    r"|msaf_mosei_epoch\d+\.pth"
)
_LOG_FILE = "*/events.out.tfevents.*"
# Temporary files that a killed process leaves: named by `system.files.atomic_write`.
HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{12}\.part\.\w+")


def epoch_file(number: int) -> str:
    """Return the name of an epoch's checkpoint, the same as in the released code."""
    return f"msaf_mosei_epoch{number}.pth"


def file_to_resume(resume: str | None, folder: Path) -> Path | None:
    """Return the file to resume from; for `auto`, `last.pth` in `folder`, or None without one."""
    if resume != "auto":
        return None if resume is None else Path(resume)
    if (folder / LAST).is_file():
        return folder / LAST
    print_line(f"No {folder / LAST} yet: starting anew")
    return None


@contextmanager
def open_run_folder(folder: Path, resume: str | None, overwrite: bool) -> Iterator[None]:
    """Lock `folder` for one run, until the block ends.

    A run that resumes from a file of the folder may continue there. `overwrite` removes what an
    earlier run wrote, and nothing else. Raises InputError when the folder holds another run, or
    when another process is training in it.
    """
    with lock_folder(folder, _LOCK, "Another training is writing into", "--checkpointdir"):
        for path in folder.glob(".*"):  # with the lock, no other process is writing them
            if HALF_WRITTEN.fullmatch(path.name):
                path.unlink()
        refuse_other_run(folder, resume, overwrite)
        for path in written_files(folder) if overwrite else ():
            path.unlink()
        yield


def refuse_other_run(folder: Path, resume: str | None, overwrite: bool) -> None:
    """Raise InputError when `folder` holds a run that is neither resumed nor overwritten."""
    files = written_files(folder)
    if files and not overwrite and not _may_resume(folder, resume, files):
        advice = "resume it (--resume auto), " if _may_resume(folder, "auto", files) else ""
        raise InputError(
            f"{folder} holds a run ({files[0].name}); {advice}remove what it wrote (--overwrite), "
            "or give another --checkpointdir."
        )


def _may_resume(folder: Path, resume: str | None, files: Sequence[Path]) -> bool:
    """Tell whether a run may continue in the folder of an earlier one, which wrote `files`."""
    if resume == "auto":  # without last.pth it starts anew: then it must not replace any weights
        return (folder / LAST).is_file() or all(path.suffix != ".pth" for path in files)
    return resume is not None and Path(resume).resolve().parent == folder.resolve()


def written_files(folder: Path) -> list[Path]:
    """Return the files that a run wrote into its folder."""
    if not folder.is_dir():
        return []
    files = [path for path in sorted(folder.iterdir()) if _RUN_FILES.fullmatch(path.name)]
    return files + sorted((folder / LOGS).glob(_LOG_FILE))
