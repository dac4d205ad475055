"""The folder of one run, which no other run writes into."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.layout import SPLITS
from data.loading.split import Split
from system.argument_types import as_argument, file_path
from system.config import make_config
from system.console import print_line
from system.errors import InputError
from system.files import read_dict, whole_digest
from system.locks import lock_folder
from utils.run_config import RunConfig

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


def file_to_resume(config: RunConfig, resume: str | None, quietly: bool = False) -> Path | None:
    """Return the file that a run resumes, as `find_file_to_resume` does; says so without one.

    Raises InputError if a run that goes on, in its folder or from that file, is not given the
    checkpoint that it started from. Whether a given checkpoint is that one is checked when
    `last.pth`, which has its digest, is read.
    """
    resumed = find_file_to_resume(resume, config.checkpointdir)
    if resume is None:
        return None
    folder = config.checkpointdir if resumed is None else resumed.parent
    recorded = (read_record(folder) or {}).get("config")
    start = recorded.get("checkpoint") if isinstance(recorded, dict) else None
    if start is not None and config.checkpoint is None:
        raise InputError(
            f"{folder / RUN_FILE} says that the run started from --checkpoint "
            f"{as_argument(str(start))}; give it again, or train anew in another --checkpointdir."
        )
    if resumed is None and not quietly:
        print_line(f"No {folder / LAST} yet: starting anew")
    return resumed


def find_file_to_resume(resume: str | None, folder: Path) -> Path | None:
    """Return the file to resume from; for `auto`, `last.pth` in `folder`, or None without one."""
    if resume == "auto":
        return folder / LAST if (folder / LAST).is_file() else None
    return None if resume is None else file_path(resume)


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Lock `folder` for one run, until the block ends.

    Raises InputError when another process is training in it.
    """
    with lock_folder(folder, _LOCK, "Another training is writing into", "--checkpointdir"):
        for path in folder.glob(".*"):  # with the lock, no other process is writing them
            if HALF_WRITTEN.fullmatch(path.name):
                path.unlink()
        yield


def remove_run(folder: Path) -> None:
    """Remove what a run wrote into its folder, and nothing else."""
    for path in written_files(folder):
        path.unlink()


def check_run_folder(
    config: RunConfig, resume: str | None, resumed: Path | None, overwrite: bool
) -> None:
    """Raise InputError unless a run may write into its folder; `resumed` is the file it resumes.

    It may not where the folder holds a search, or a run that is neither resumed nor overwritten,
    or where `overwrite` would remove a file that it reads.
    """
    folder = config.checkpointdir
    if holds_search(folder):
        raise InputError(f"{folder} holds a search ({RUN_FILE}); give another --checkpointdir.")
    if not overwrite:
        _refuse_other_run(config, resume, resumed)
        return
    removed = {path.resolve() for path in written_files(folder)}
    for path in (config.checkpoint, config.against, resumed):
        if path is not None and path.resolve() in removed:
            raise InputError(
                f"--overwrite would remove {path}, which this run reads; copy the file to another "
                "folder, or give another --checkpointdir."
            )


def _refuse_other_run(config: RunConfig, resume: str | None, resumed: Path | None) -> None:
    """Raise InputError when the run's folder holds a run that is not resumed."""
    folder = config.checkpointdir
    files = written_files(folder)
    if files and not _may_resume(config, resume, resumed, files):
        last = find_file_to_resume("auto", folder)
        advice = "resume it (--resume auto), " if _may_resume(config, "auto", last, files) else ""
        raise InputError(
            f"{folder} holds a run ({files[0].name}); {advice}remove what it wrote (--overwrite), "
            "or give another --checkpointdir."
        )


def _may_resume(
    config: RunConfig, resume: str | None, resumed: Path | None, files: Sequence[Path]
) -> bool:
    """Tell whether a run may continue in the folder of an earlier one, which wrote `files`."""
    folder = config.checkpointdir
    if resumed is not None:
        return resumed.resolve().parent == folder.resolve()
    # Without last.pth it starts anew: then it must not replace any weights but those that it
    # writes again.
    weights = {path.name for path in files if path.suffix == ".pth"}
    is_free = not weights or _writes_again(config, weights, read_record(folder) or {})
    return resume == "auto" and is_free


def _writes_again(config: RunConfig, weights: set[str], record: dict[str, Any]) -> bool:
    """Tell whether a run that starts anew writes the `weights` of the recorded one again.

    It does where a kill or a full disk ended that one, of the same settings, checkpoint and data,
    while it saved its first epoch.
    """
    if record.get("ended", "") is not None or not weights <= {BEST, epoch_file(1)}:
        return False
    if _has_later_epochs(config.checkpointdir / HISTORY):
        return False
    with suppress(InputError, KeyError, TypeError):
        recorded = make_config(RunConfig, record["config"], RUN_FILE)
        model, task = config.model or recorded.model, config.task or recorded.task
        start = None if config.checkpoint is None else whole_digest(config.checkpoint)
        digests = {name: Split(config.data_folder / name).digest for name in SPLITS}
        return (
            replace(config, model=model, task=task).outcome == recorded.outcome
            and record.get("checkpoint_digest", start) == start
            and record["dataset"]["digests"] == digests
        )
    return False


def _has_later_epochs(table: Path) -> bool:
    """Tell whether a run's table has epochs after its first, which `best.pth` may be of."""
    text = table.read_text(encoding="utf-8", errors="replace") if table.is_file() else ""
    return any(not line.startswith("1,") for line in text.splitlines()[1:])


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the content of a run folder's `run.json`; None where it cannot be read."""
    return read_dict(folder / RUN_FILE)


def holds_search(folder: Path) -> bool:
    """Tell whether a folder's `run.json` has the configuration that a search chose."""
    return "search" in (read_record(folder) or {})


def written_files(folder: Path) -> list[Path]:
    """Return the files that a run wrote into its folder."""
    if not folder.is_dir():
        return []
    files = [path for path in sorted(folder.iterdir()) if _RUN_FILES.fullmatch(path.name)]
    return files + sorted((folder / LOGS).glob(_LOG_FILE))
