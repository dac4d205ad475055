"""Reading the folds: which video belongs to which split."""

from __future__ import annotations

from pathlib import Path

from data.layout import SPLITS
from system.errors import InputError
from system.files import not_a_file, read_json


def read_folds(path: Path) -> dict[str, str]:
    """Read a folds file, `{"train": [video id, ...], "val": ..., "test": ...}`.

    Returns the split of each video id. Raises InputError when the file is missing or something
    else, or has a video in two splits.
    """
    if not path.is_file():  # a pipe can be read only once, and reading may wait without end
        raise InputError(f"{not_a_file(path)}; give the path of a file of folds.")
    folds = read_json(path, '; give {"train": [video id, ...], "val": [...], "test": [...]}')
    if not isinstance(folds, dict) or set(folds) != set(SPLITS):
        found = ", ".join(map(str, folds)) if isinstance(folds, dict) else type(folds).__name__
        raise InputError(
            f"{path} holds {found or 'nothing'}; expected the keys {', '.join(SPLITS)}."
        )
    split_of: dict[str, str] = {}
    for split, videos in folds.items():
        if not isinstance(videos, list) or not all(isinstance(video, str) for video in videos):
            raise InputError(f"{path}: {split} is not a list of video ids.")
        for video in videos:
            if split_of.setdefault(video, split) != split:
                raise InputError(f"{path}: video {video} is in both {split_of[video]} and {split}.")
    return split_of
