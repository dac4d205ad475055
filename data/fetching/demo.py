"""A small made-up CMU-MOSEI: real .csd files, standard-fold video ids, and a tiny BERT.

Each segment has a sentiment, which its words, its FACET rows and its COVAREP rows express with
independent noise: all three together predict it better than any one of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.random import Generator, default_rng

from data.fetching.server import MOSEI
from data.formats.folds import read_folds
from data.layout import SPLITS
from system.errors import InputError
from system.files import write_bytes

DEMO = replace(MOSEI, title="CMU-MOSEI's shape, made-up data")

_VIDEOS = {"train": 40, "val": 8, "test": 12}
_SEGMENTS = (9, 15)  # per video, from 9 to 14
_SECONDS = (3.0, 9.0)  # a segment's length
_ROWS_PER_SECOND = {"visual": 5, "audio": 10}
_EMOTION_SLOPES = [0.6, -0.4, -0.4, 0.0, -0.4, 0.0]  # per point of sentiment
_NOISE = {"words": 0.8, "visual": 1.2, "audio": 1.2}  # in points of sentiment
_POSITIVE = "great love wonderful amazing best happy excellent enjoy brilliant fun".split()
_NEGATIVE = "bad hate terrible awful worst sad boring poor weak disappointing".split()
_NEUTRAL = (
    "the a this that it was is i you we they movie film book phone story really just so and "
    "but of in on with about think know said people time day umm uhh"
).split()
_PAUSE = "sp"
_MAX_BYTES = 2**26  # of a file, four times the largest


def demo_bert(datadir: Path) -> Path:
    """Return the folder of the demo's BERT."""
    return datadir / "demo_bert"


def demo_is_written(datadir: Path) -> bool:
    """Tell whether the demo is complete; raises InputError when a .csd file is not the demo's."""
    paths = _csd_paths(datadir).values()
    for path in paths:
        if path.exists() and not _is_made_up(path):
            raise InputError(f"{path} is not the demo's; give --demo another --datadir.")
    return all(path.is_file() for path in paths) and demo_bert(datadir).is_dir()


def holds_demo(csd_dir: Path) -> bool:
    """Tell whether the labels among the .csd files of a folder are the demo's, made up."""
    return _is_made_up(csd_dir / DEMO.sequences["labels"].name)


def _csd_paths(datadir: Path) -> dict[str, Path]:
    return {kind: datadir / "csd" / source.name for kind, source in DEMO.sequences.items()}


def write_demo(datadir: Path, seed: int = 0) -> Path:
    """Write `<datadir>/csd/*.csd` and a tiny BERT; returns the BERT's folder.

    An existing demo is not written again. Raises InputError as `demo_is_written` does.
    """
    if not demo_is_written(datadir):
        _write_bert(demo_bert(datadir), seed)
        videos = dict(_videos(default_rng(seed)))
        for kind, path in _csd_paths(datadir).items():
            _write_csd(path, {video: sequences[kind] for video, sequences in videos.items()})
    return demo_bert(datadir)


def _is_made_up(path: Path) -> bool:
    """Tell whether a .csd file is the demo's, by the description that only such small ones have."""
    is_small = path.is_file() and path.stat().st_size < _MAX_BYTES
    return is_small and DEMO.title.encode() in path.read_bytes()


_Sequence = tuple[np.ndarray, np.ndarray]  # intervals and features


def _videos(rng: Generator) -> Iterator[tuple[str, dict[str, _Sequence]]]:
    """Draw each video's id and its sequences, by kind."""
    split_of = read_folds(DEMO.folds)
    directions = {kind: rng.normal(size=DEMO.sequences[kind].width) for kind in ("visual", "audio")}
    for split in SPLITS:
        ids = sorted(video for video, name in split_of.items() if name == split)
        for video in rng.choice(ids, _VIDEOS[split], replace=False):
            yield str(video), _video(directions, rng)


def _video(directions: dict[str, np.ndarray], rng: Generator) -> dict[str, _Sequence]:
    segments, sentiments = _segments(rng)
    segment_words = [_words(*pair, rng) for pair in zip(segments, sentiments, strict=True)]
    intervals, words = (np.concatenate(column) for column in zip(*segment_words, strict=True))
    sequences = {"words": (intervals, words), "labels": (segments, _labels(sentiments, rng))}
    for kind, direction in directions.items():
        sequences[kind] = _rows(kind, segments, sentiments, direction, rng)
    return sequences


def _segments(rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw consecutive label intervals `(k, 2)`, and sentiments `(k,)` in thirds."""
    lengths = rng.uniform(*_SECONDS, size=rng.integers(*_SEGMENTS))
    ends = np.cumsum(lengths + 0.5)
    sentiments = np.round(np.clip(rng.normal(0.2, 1.4, len(lengths)), -3, 3) * 3) / 3
    return np.stack([ends - lengths, ends], axis=1), sentiments


def _labels(sentiments: np.ndarray, rng: Generator) -> np.ndarray:
    """Add the emotions: most are 0, as in CMU-MOSEI, and some depend on the sentiment."""
    emotions = rng.uniform(0, 3, (len(sentiments), DEMO.sequences["labels"].width - 1)) - 1.8
    emotions += np.outer(sentiments, _EMOTION_SLOPES)
    return np.column_stack([sentiments, np.clip(emotions, 0, 3)]).astype(np.float32)


def _words(segment: np.ndarray, sentiment: float, rng: Generator) -> _Sequence:
    """Draw a segment's words: the stronger the sentiment, the more of them express it."""
    expressed = sentiment + rng.normal(0, _NOISE["words"])
    edges = np.linspace(segment[0], segment[1], num=int(rng.integers(8, 20)))
    chance_of_feeling = min(abs(expressed) / 4, 0.8)
    words = []
    for _ in range(len(edges) - 1):
        draw = rng.random()
        if draw < chance_of_feeling:
            words.append(rng.choice(_POSITIVE if expressed > 0 else _NEGATIVE))
        else:
            words.append(_PAUSE if draw > 0.95 else rng.choice(_NEUTRAL))
    return np.stack([edges[:-1], edges[1:]], axis=1), np.array(words, dtype="S32")[:, None]


def _rows(
    kind: str, segments: np.ndarray, sentiments: np.ndarray, direction: np.ndarray, rng: Generator
) -> _Sequence:
    """Draw evenly spaced rows, shifted along `direction` inside the segments."""
    rate = _ROWS_PER_SECOND[kind]
    starts = np.arange(int((segments[-1, 1] + 1) * rate)) / rate
    features = rng.normal(size=(len(starts), len(direction)))
    for (start, end), sentiment in zip(segments, sentiments, strict=True):
        expressed = sentiment + rng.normal(0, _NOISE[kind])
        features[(starts >= start) & (starts < end)] += 0.3 * expressed * direction
    if kind == "audio":
        features[rng.random(features.shape) < 2e-4] = -np.inf  # as the real COVAREP has
    intervals = np.stack([starts, starts + 1 / rate], axis=1)
    return intervals, features.astype(np.float32)


def _write_csd(path: Path, entries: dict[str, _Sequence]) -> None:
    # Made in memory first: on a full disk, HDF5 raises a RuntimeError that does not say so.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for entry, (intervals, features) in entries.items():
            group = file.create_group(f"{path.stem}/data/{entry}")
            group.create_dataset("intervals", data=intervals)
            group.create_dataset("features", data=features)
        for field, value in {"root name": path.stem, "description": DEMO.title}.items():
            text = np.array([json.dumps(value)], dtype=h5py.string_dtype())
            file.create_dataset(f"{path.stem}/metadata/{field}", data=text)
    write_bytes(path, content.getbuffer())


def _write_bert(folder: Path, seed: int) -> None:
    """Write a tiny BERT with random weights whose vocabulary has the demo's words.

    Its features differ from word to word, which is enough for the demo.
    """
    import torch
    from pytorch_pretrained_bert import BertConfig, BertModel
    from safetensors.torch import save

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", _PAUSE, *_POSITIVE, *_NEGATIVE, *_NEUTRAL]
    config = BertConfig(
        len(pieces),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    torch.manual_seed(seed)
    model = BertModel(config)
    contents = {
        "config.json": config.to_json_string().encode(),
        "vocab.txt": ("\n".join(pieces) + "\n").encode(),
        "model.safetensors": save(model.state_dict()),
    }
    for name, content in contents.items():
        write_bytes(folder / name, content)
