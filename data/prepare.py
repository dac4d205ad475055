"""The whole preparation: .csd files -> `<datadir>/{train,val,test}/*.npy`.

Everything is made in `<datadir>/.preparing` and moved into place when it is complete, so that
an interrupted preparation goes on there and what was in place stays whole.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .files import write_json
from .folds import SPLITS, read_folds
from .layout import ARRAY_FILES, SEGMENT_COLUMNS, SEGMENTS_FILE, TEXT_FILE, read_segments
from .manifest import MANIFEST, read_manifest, write_manifest
from .npy import NpyWriter
from .segments import Lengths, Segment, Sequences, nothing_left
from .sources import Dataset

if TYPE_CHECKING:
    from .text import TextEncoder

_STAGE = ".preparing"
_TEXT_STARTED = "text.json"


@dataclass(frozen=True)
class Request:
    """What to prepare, from what."""

    datadir: Path
    csd_dir: Path
    dataset: Dataset
    alignment: str
    lengths: Lengths
    bert: str  # a folder, or a name on the Hugging Face hub
    device: str

    @property
    def paths(self) -> dict[str, Path]:
        """The four .csd files by what they hold."""
        return {kind: self.csd_dir / source.name for kind, source in self.dataset.sequences.items()}

    def made_from(self) -> dict[str, Any]:
        """Everything that decides what the aligned arrays hold."""
        files = {kind: path.stat() for kind, path in self.paths.items()}
        return {
            "dataset": self.dataset.title,
            "alignment": self.alignment,
            "lengths": asdict(self.lengths),
            "files": {
                kind: {
                    "name": self.paths[kind].name,
                    "bytes": status.st_size,
                    "modified": status.st_mtime_ns,
                }
                for kind, status in files.items()
            },
            "folds": hashlib.sha256(self.dataset.folds.read_bytes()).hexdigest(),
        }


def prepare(request: Request) -> dict[str, Any]:
    """Align, encode the text, and put the splits into place; returns the manifest.

    What is already there, made from the same files, is not made again. Raises InputError for
    anything wrong with the files; then what was in place has not changed.
    """
    place, stage = request.datadir, request.datadir / _STAGE
    made_from = request.made_from()
    in_place, staged = read_manifest(place), read_manifest(stage)
    if _is_done(in_place, made_from, request.bert):
        return in_place
    if _is_done(staged, made_from, request.bert):  # killed while moving into place
        return _publish(stage, place, staged)
    if in_place is None and staged is None:
        _refuse_foreign_arrays(place)
    # PyTorch, which nothing else here needs. BERT is loaded first, because a mistake there
    # should not wait for the alignment.
    from .text import TextEncoder

    encoder = TextEncoder(request.bert, request.device)
    if in_place and in_place["made_from"] == made_from:
        manifest, arrays = in_place, place
    else:
        manifest, arrays = _aligned(request, made_from, stage), stage
    _write_text(encoder, arrays, stage)
    return _publish(stage, place, {**manifest, "text": encoder.description})


def _is_done(manifest: dict[str, Any] | None, made_from: dict[str, Any], bert: str) -> bool:
    """Tell whether this manifest is of what is asked for, text features included."""
    if manifest is None or manifest["made_from"] != made_from or not manifest["text"]:
        return False
    return manifest["text"]["encoder"] == bert


def _refuse_foreign_arrays(place: Path) -> None:
    """Do not overwrite arrays that another program made, perhaps over hours."""
    for split in SPLITS:
        for name in (*ARRAY_FILES.values(), TEXT_FILE):
            if (place / split / name).exists():
                raise InputError(
                    f"{place / split / name} was not made by this program (no {MANIFEST} in "
                    f"{place}); move it away, or prepare into another --datadir."
                )


def _aligned(request: Request, made_from: dict[str, Any], stage: Path) -> dict[str, Any]:
    """Make the aligned arrays in `stage`, unless a complete set waits there; their manifest."""
    waiting = read_manifest(stage)
    if waiting and waiting["made_from"] == made_from and not waiting["text"]:
        return waiting
    shutil.rmtree(stage, ignore_errors=True)
    try:
        counts, left_out = _align(request, stage)
        manifest = {"made_from": made_from, "splits": counts, "left_out": left_out, "text": None}
        write_manifest(stage, manifest)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    return manifest


def _align(request: Request, stage: Path) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Write all splits; the counts by split, and by reason of what was left out."""
    split_of = read_folds(request.dataset.folds)
    left_out: Counter[str] = Counter()
    with ExitStack() as stack:
        sequences = stack.enter_context(Sequences(request.dataset, request.paths))
        writers = {
            split: stack.enter_context(_SplitWriter(stage / split, request)) for split in SPLITS
        }
        for segment in sequences.segments(split_of, request.alignment, request.lengths, left_out):
            writers[segment.split].write(segment)
    counts = {
        split: {"segments": writer.segments, "videos": len(writer.videos)}
        for split, writer in writers.items()
    }
    left_out = +left_out
    if not any(count["segments"] for count in counts.values()):
        raise nothing_left(left_out)
    return counts, dict(left_out)


class _SplitWriter:
    """One split's arrays and segment table, written as segments come."""

    def __init__(self, folder: Path, request: Request) -> None:
        folder.mkdir(parents=True)
        dataset, lengths = request.dataset, request.lengths
        shapes = {
            "visual": (lengths.visual, dataset.visual.width),
            "audio": (lengths.audio, dataset.audio.width),
            "label": (1, dataset.labels.width),
        }
        self._stack = ExitStack()
        self._arrays = {
            kind: self._stack.enter_context(NpyWriter(folder / ARRAY_FILES[kind], shape))
            for kind, shape in shapes.items()
        }
        file = self._stack.enter_context(
            (folder / SEGMENTS_FILE).open("w", encoding="utf-8", newline="")
        )
        self._table = csv.writer(file)
        self._table.writerow(SEGMENT_COLUMNS)
        self.segments = 0
        self.videos: set[str] = set()

    def __enter__(self) -> _SplitWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, segment: Segment) -> None:
        """Append one segment."""
        for kind, writer in self._arrays.items():
            writer.append(getattr(segment, kind)[None])
        sentence = " ".join(segment.words)
        sentiment = float(segment.label[0, 0])
        self._table.writerow(
            [segment.id, segment.video, segment.start, segment.end, sentence, sentiment]
        )
        self.segments += 1
        self.videos.add(segment.video)


def _write_text(encoder: TextEncoder, arrays: Path, stage: Path) -> None:
    """Write the text features of all splits into `stage`, going on where a call was interrupted."""
    from .text import write_text_features

    started = stage / _TEXT_STARTED
    if not started.is_file() or json.loads(started.read_text()) != encoder.description:
        for split in SPLITS:
            (stage / split).mkdir(parents=True, exist_ok=True)
            (stage / split / TEXT_FILE).unlink(missing_ok=True)
        write_json(started, encoder.description)
    for split in SPLITS:
        sentences = [row["sentence"] for row in read_segments(arrays / split)]
        write_text_features(stage / split / TEXT_FILE, sentences, encoder)


def _publish(stage: Path, place: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Move what `stage` holds into place, the manifest last; returns the manifest."""
    # In the stage first: a call that is killed while moving is finished by the next one.
    write_manifest(stage, manifest)
    (place / MANIFEST).unlink(missing_ok=True)
    for split in SPLITS:
        (place / split).mkdir(exist_ok=True)
        for path in (stage / split).iterdir():
            path.replace(place / split / path.name)
    (stage / MANIFEST).replace(place / MANIFEST)
    shutil.rmtree(stage)
    return manifest
