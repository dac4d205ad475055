"""Moving what was made in the stage into place, so that an interrupted move can be continued."""

from __future__ import annotations

import shutil
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from data.layout import PIECES_FILE, SEGMENTS_FILE, SPLIT_FILES, SPLITS, STAGE, TEXT_FILE, read_ids
from data.manifest import MANIFEST, MOVING, is_unchanged, splits_of, write_manifest
from data.preparing.plan import Plan
from system.errors import InputError
from system.files import check_writable, file_facts, flush_all, move_file
from system.threads import in_parallel


def put_into_place(plan: Plan, manifest: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Move the staged files, the text files `texts` among them, into place; returns the manifest.

    Raises InputError if a staged file is missing, or has changed since it was written.
    """
    files, arrays = staged_files(plan.stage, splits_of(manifest)), manifest.get("files", {})
    bad_files = [name for name, facts in arrays.items() if files.get(name) != facts]
    for name in bad_files + [name for name in texts if name not in files]:
        raise InputError(
            f"{plan.stage / name} has vanished or changed since it was written; run the same "
            "command again, and let nothing else write there."
        )
    manifest = {**manifest, "files": files}
    write_manifest(plan.stage, {**manifest, MOVING: True})
    return move_into_place(plan.request.folder, manifest, are_checked=True)


def staged_files(stage: Path, splits: Iterable[str]) -> dict[str, Any]:
    """Return size and sample of each file in the stage, by name."""
    names = [f"{split}/{name}" for split in splits for name in SPLIT_FILES]
    names = [name for name in names if (stage / name).exists()]
    facts = in_parallel(file_facts, [(stage / name,) for name in names], len(names))
    return dict(zip(names, facts, strict=True))


def move_into_place(
    folder: Path, manifest: dict[str, Any], are_checked: bool = False
) -> dict[str, Any]:
    """Move the staged files into place, the manifest last; an interrupted move can be continued.

    Unless `are_checked`, a file that has changed since it was written is not moved; it has to be
    made again. Raises OSError, and leaves the manifest in place, if a split cannot be written.
    """
    stage, files, splits = folder / STAGE, manifest["files"], splits_of(manifest)
    has_arrays = any(name.endswith(SEGMENTS_FILE) for name in files)  # not text alone
    for split in SPLITS if has_arrays else splits:
        if split in splits or any((folder / split / name).exists() for name in SPLIT_FILES):
            check_writable(folder / split)
    (folder / MANIFEST).unlink(missing_ok=True)
    if has_arrays:
        _remove_old(folder, files, splits)
    sizes, rows = dict(manifest.get("bytes", {})), dict(manifest.get("rows", {}))
    for split in splits:
        for name in [f"{split}/{name}" for name in SPLIT_FILES]:
            if name in files if are_checked else is_unchanged(files, stage, name):
                move_file(stage / name, folder / name)
            elif name not in files:
                continue
            elif not is_unchanged(files, folder, name):
                (folder / name).unlink(missing_ok=True)  # of the arrays before
            sizes[name] = files[name]["bytes"]  # also of a lost file, so that it is missed
            if name.endswith(SEGMENTS_FILE) and (folder / name).exists():
                rows[split] = read_ids(folder / split)[1]
    flush_all([], [folder, *(folder / split for split in splits)])
    described = {key: value for key, value in manifest.items() if key != "files"}
    manifest = write_manifest(folder, {**described, "bytes": sizes, "rows": rows})
    shutil.rmtree(stage)
    return manifest


def _remove_old(folder: Path, files: Container[str], splits: Container[str]) -> None:
    """Remove what is there beside the new arrays: text of the old ones, splits that are gone."""
    for split in SPLITS:
        for name in (TEXT_FILE, PIECES_FILE) if split in splits else SPLIT_FILES:
            if f"{split}/{name}" not in files:
                (folder / split / name).unlink(missing_ok=True)
