"""Writes made-up .csd files, plain and compressed."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

import h5py
import numpy as np

from data.fetching.server import MOSEI
from data.formats.folds import read_folds
from system.cpus import usable_cpus
from tests.csd_files import random_video

FORMS = ("plain", "gzip", "rounded")


def write_made_up(folder: Path, count: int) -> Path:
    """Write `count` videos of random numbers in CMU-MOSEI's shape: 75 s and 7 segments each."""
    rng = np.random.default_rng(0)
    names = _videos(count)
    with ExitStack() as stack:
        files = {
            kind: stack.enter_context(h5py.File(folder / source.name, "w"))
            for kind, source in MOSEI.sequences.items()
        }
        for kind, file in files.items():  # as much of the description as the CMU SDK asks for
            root = MOSEI.sequences[kind].name[:-4]
            root_name = np.array([json.dumps(root)], h5py.string_dtype())
            file.create_dataset(f"{root}/metadata/root name", data=root_name)
        for name in names:
            video = random_video(rng, 75, 7, {"visual": 30, "audio": 100})
            for kind, (intervals, features) in video.items():
                group = files[kind].create_group(f"{MOSEI.sequences[kind].name[:-4]}/data/{name}")
                group["intervals"], group["features"] = intervals, features
    return folder


def _videos(count: int) -> list[str]:
    """Return video ids from all folds; if `count` is larger, some in no fold, as CMU-MOSEI has."""
    videos = list(read_folds(MOSEI.folds))
    chosen = np.linspace(0, len(videos) - 1, min(count, len(videos)))
    return [videos[round(k)] for k in chosen] + [f"none{k}" for k in range(count - len(videos))]


@contextmanager
def in_form(csd: Path, form: str) -> Iterator[Path]:
    """Yield a folder with the files of `csd` in `form`, one of FORMS."""
    if form == "plain":
        yield csd
        return
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(usable_cpus()) as threads:
        for kind, source in MOSEI.sequences.items():
            with (
                h5py.File(csd / source.name) as old,
                h5py.File(Path(folder) / source.name, "w") as new,
            ):
                is_rounded = form == "rounded" and kind in ("audio", "visual")
                root = next(iter(old))
                old.copy(f"{root}/metadata", new.create_group(root))
                for key, entry in old[root]["data"].items():
                    for name in ("features", "intervals"):
                        values = entry[name][:]
                        if is_rounded and name == "features":
                            values = np.round(values, 3)
                        write_compressed(new, f"{root}/data/{key}/{name}", values, threads)
        yield Path(folder)


def write_compressed(
    file: h5py.File, path: str, values: np.ndarray, threads: ThreadPoolExecutor
) -> None:
    """Write a dataset as HDF5 does at compression level 9, but in several threads."""
    gzip = {"compression": "gzip", "compression_opts": 9}
    dataset = file.create_dataset(path, values.shape, values.dtype, **gzip)
    shape = dataset.chunks
    offsets = list(product(*map(range, [0, 0], values.shape, shape)))

    def compressed(offset: tuple[int, int]) -> bytes:  # without h5py: its lock may be held
        part = values[offset[0] :, offset[1] :][: shape[0], : shape[1]]
        chunk = np.zeros(shape, values.dtype)
        chunk[: part.shape[0], : part.shape[1]] = part
        return zlib.compress(chunk.tobytes(), 9)

    for offset, content in zip(offsets, threads.map(compressed, offsets), strict=True):
        dataset.id.write_direct_chunk(offset, content)
