"""The CMU SDK's side of the preparation's benchmark, as a whole program.

    python -m benchmarks.sdk CSD_DIR segment|word OUT

It aligns as the SDK's examples do and writes `visual50.npy` and `audio50.npy` into OUT, float32.
The SDK is whichever `mmsdk` can be imported: its GitHub repository, or the copy of an old version
on PyPI (`pip install --no-deps cmu-multimodal-sdk==0.0.6`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from mmsdk.mmdatasdk.dataset import dataset as sdk

from data.fetching.server import MOSEI
from data.formats.folds import read_folds
from data.preparing.alignment import EPSILON
from data.preparing.segments import ALIGNED_LENGTHS


def align(csd: Path, alignment: str) -> sdk.mmdataset:
    """Return the four sequences, aligned to the labels."""
    sdk.epsilon = EPSILON  # old versions took 1e-3 s
    paths = {kind: str(csd / source.name) for kind, source in MOSEI.sequences.items()}
    labels = paths.pop("labels")
    dataset = sdk.mmdataset(paths)
    if alignment == "word":
        dataset.align("words", collapse_functions=[mean_row])
    dataset.add_computational_sequences({"labels": labels}, None)
    dataset.align("labels")
    return dataset


def mean_row(_: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean of the rows that belong to a word; a word itself as it is."""
    return rows[0] if rows.dtype.kind == "S" else np.average(rows, axis=0)


def last_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """Return a segment's last rows, with zeros in front where there are fewer."""
    return np.pad(rows[-count:], ((max(count - len(rows), 0), 0), (0, 0)))


def main() -> None:
    """Align as the command line says, and write the arrays."""
    csd, alignment, out = sys.argv[1:]
    dataset, split_of = align(Path(csd), alignment), read_folds(MOSEI.folds)
    entries = {kind: dataset[kind].data for kind in MOSEI.sequences}
    segments = [
        segment
        for segment in entries["labels"]
        if segment.split("[")[0] in split_of and all(segment in data for data in entries.values())
    ]
    for kind, count in ALIGNED_LENGTHS.items():
        rows = [last_rows(entries[kind][segment]["features"], count) for segment in segments]
        np.save(Path(out) / f"{kind}50.npy", np.stack(rows).astype(np.float32, copy=False))
    print(len(segments), "segments")


if __name__ == "__main__":
    main()
