"""Writes small computational sequences (.csd files) for the tests."""

from __future__ import annotations

import json

import h5py
import numpy as np

from data.fetching.server import MOSEI

TRAIN_VIDEOS = ["hh04W3xXa5s", "GdFP_p4eQX0", "4iG0ffmnCOw"]  # of the standard folds
VAL_VIDEO, TEST_VIDEO = "188343", "7l3BNtSE0xc"


def write_csd(path, entries, root=None, features_options=None, **options):
    """Write `{entry: (intervals, features)}`; `options` are those of h5py's `create_dataset`."""
    root = root or path.stem
    with h5py.File(path, "w") as file:
        for entry, (intervals, features) in entries.items():
            group = file.create_group(f"{root}/data/{entry}")
            group.create_dataset("intervals", data=intervals, **options)
            group.create_dataset("features", data=features, **options, **(features_options or {}))
        file.require_group(f"{root}/data")
        name = np.array([json.dumps(root)], dtype=h5py.string_dtype())
        file.create_dataset(f"{root}/metadata/root name", data=name)


def random_video(rng, seconds=12.0, segments=3, rates=None):
    """Return one video's four sequences: `{"words": (intervals, features), ...}`.

    `rates` are the rows per second of visual and audio.
    """
    rates = rates or {"visual": 6, "audio": 10}
    edges = np.sort(rng.uniform(0, seconds, segments + 1))
    labels = np.stack([edges[:-1], edges[1:]], axis=1)
    word_edges = np.sort(rng.uniform(0, seconds, int(2 * seconds) + 1))
    words = np.stack([word_edges[:-1], word_edges[1:]], axis=1)
    spoken = rng.choice([b"good", b"bad", b"movie", b"sp"], len(words)).astype("S32")[:, None]
    video = {
        "words": (words, spoken),
        "labels": (labels, rng.normal(size=(segments, 7)).astype(np.float32)),
    }
    for kind, width in (("visual", 35), ("audio", 74)):
        rate = rates[kind]
        starts = np.arange(int(seconds * rate)) / rate
        intervals = np.stack([starts, starts + 1 / rate], axis=1)
        video[kind] = intervals, rng.normal(size=(len(starts), width)).astype(np.float32)
    return video


def random_dataset(seed=0, videos=(*TRAIN_VIDEOS, VAL_VIDEO, TEST_VIDEO)):
    """Return videos by kind and id: `{"words": {video: (intervals, features)}, ...}`."""
    rng = np.random.default_rng(seed)
    by_video = {video: random_video(rng) for video in videos}
    return {kind: {video: by_video[video][kind] for video in videos} for kind in MOSEI.sequences}


def write_dataset(folder, sequences, **options):
    """Write the four .csd files of CMU-MOSEI into `folder`; returns their paths by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, source in MOSEI.sequences.items():
        write_csd(folder / source.name, sequences[kind], **options)
    return {kind: folder / source.name for kind, source in MOSEI.sequences.items()}


def all_features(rows):
    """Return the features of all rows of a video."""
    return rows.features(np.arange(len(rows.intervals)))
