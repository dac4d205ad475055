"""A folder that a preparation finds in place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from data.layout import PIECES_FILE, SEGMENTS_FILE, STAGE, iterate_segments, read_ids
from data.manifest import has_rows, is_unchanged, splits_of
from system.errors import InputError


@dataclass(frozen=True)
class Prepared:
    """A folder with a manifest, and what the manifest says about it."""

    folder: Path
    manifest: dict[str, Any]
    is_half_moved: bool = False  # some files may still be in the stage; their sizes are not listed

    def is_whole(self, names: Iterable[str]) -> bool:
        """Tell whether each split has these files, as large as they were written."""
        files = [f"{split}/{name}" for split, name in product(splits_of(self.manifest), names)]
        return bool(files) and all(map(self._is_there, files))

    def _is_there(self, name: str) -> bool:
        path, moved = self.folder / name, self.manifest["files"] if self.is_half_moved else {}
        if name in moved:
            return any(is_unchanged(moved, x, name) for x in (self.folder, self.folder / STAGE))
        size = self.manifest.get("bytes", {}).get(name)
        has_size = path.is_file() and path.stat().st_size == size
        return has_size and (path.name != SEGMENTS_FILE or self.has_rows(path.parent.name))

    def has_rows(self, split: str) -> bool:
        """Tell whether a split's segment table has the rows it was prepared with."""
        try:
            return has_rows(self.manifest, split, read_ids(self.folder / split)[1])
        except InputError:
            return False

    def lacks_own_pieces(self, split: str) -> bool:
        """Tell whether word pieces are lost that the source had in place of a split's sentences."""
        name = f"{split}/{PIECES_FILE}"
        if not any(name in self.manifest.get(field, {}) for field in ("bytes", "files")):
            return False
        has_sentences = any(row["sentence"] for row in iterate_segments(self.folder / split))
        return not (has_sentences or self._is_there(name))
