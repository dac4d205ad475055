"""Which dataset it is that a model learns from or is scored on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.labels import scores_of
from data.loading.split import Split
from data.manifest import read_manifest


def describe_data(folder: Path, splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return a dataset's title, how it is aligned and scored, and a digest of each of `splits`.

    `folder` has the splits; title and alignment are None where no manifest lies beside them. Word
    pieces that are read for text have digests of their own.
    """
    manifest = read_manifest(folder)
    made_from = manifest["made_from"] if manifest else {}
    pieces = {name: split.pieces_digest for name, split in splits.items() if split.takes_pieces}
    return {
        "dataset": made_from.get("dataset"),
        "alignment": made_from.get("alignment"),
        "scores": scores_of(manifest),
        "digests": {name: split.digest for name, split in splits.items()},
        **({"pieces": pieces} if pieces else {}),
    }
