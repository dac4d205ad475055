"""The whole preparation: an origin -> `<root>/{train,val,test}/*.npy`.

Everything is made in `.preparing` beside the splits and moved into place when it is complete,
so that an interrupted preparation goes on there and what was in place stays whole.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.layout import (
    ALIGNMENT_NAMES,
    ARRAY_FILES,
    PIECES_FILE,
    SEGMENTS_FILE,
    SPLIT_FILES,
    SPLITS,
    STAGE,
    TEXT_FILE,
    alignment_folder,
    read_segments,
    refuse_foreign_arrays,
)
from data.manifest import MANIFEST, MOVING, read_manifest, write_manifest
from data.preparing.sources import DataSource
from data.text.bert_files import weights_facts
from system.errors import InputError
from system.files import write_json
from system.processes import Processes

if TYPE_CHECKING:
    from data.text.encoder import TextEncoder, WordPieces

_TEXT_STARTED = "text.json"


@dataclass(frozen=True)
class TextRequest:
    """Which text features to make."""

    bert: str  # a folder, or a name on the Hugging Face hub
    precision: str
    device: str

    def is_met_by(self, text: dict[str, Any] | None) -> bool:
        """Tell whether a manifest's text features are these."""
        wanted = {
            "encoder": self.bert,
            "weights": weights_facts(self.bert),
            "precision": self.precision,
        }
        return text is not None and all(text.get(key) == value for key, value in wanted.items())


@dataclass(frozen=True)
class Request:
    """What to prepare."""

    datadir: Path
    alignment: str
    origin: DataSource
    text: TextRequest | None  # None: compute no text features


def prepare(request: Request, processes: Processes) -> dict[str, Any]:
    """Write the arrays, encode the text, and put the splits into place; returns the manifest.

    What is already there, made from the same files, is not made again. Of several processes,
    the first does all but the others' share of the text. Raises InputError for anything wrong
    with the files; then what was in place has not changed.
    """
    place = alignment_folder(request.datadir, request.alignment)
    stage = place / STAGE
    if processes.broadcast(processes.is_first and _is_done(request, place, stage)):
        return read_manifest(place)
    encoder = arrays = None
    if not request.origin.takes_text:
        # BERT first: a mistake there should not wait for the alignment.
        encoder = _make_encoder(request, processes)
    if processes.is_first:
        arrays = _arrays(request, place, stage)
    arrays = processes.broadcast(arrays)
    if request.origin.takes_text and read_manifest(arrays)["text"] is None:
        encoder = _make_encoder(request, processes)
    if encoder is not None:
        if processes.is_first:
            _start_text(request.datadir, encoder, arrays, stage)
        processes.broadcast(None)
        _write_text(encoder, arrays, stage, processes)
    if processes.is_first:
        manifest = read_manifest(arrays)
        if encoder is not None:
            manifest["text"] = encoder.description
        if arrays == stage:
            if encoder is None and manifest["text"] is None:
                manifest["text"] = _keep_text(place, stage)
            _clear_old_text(place)
        write_manifest(stage, {**manifest, MOVING: True})
        _move_into_place(stage, place)
    processes.broadcast(None)
    return read_manifest(place)


def _is_done(request: Request, place: Path, stage: Path) -> bool:
    """Tell whether all that is asked for is in place; ends a move that was interrupted."""
    staged = read_manifest(stage)
    if staged is not None and staged.get(MOVING):
        _move_into_place(stage, place)
        staged = None
    in_place = read_manifest(place)
    if in_place is None:
        if staged is None:
            refuse_foreign_arrays(place)
        return False
    _refuse_another_dataset(place, in_place, request)
    if not _has_arrays(place, in_place, request):
        return False
    if request.text is None or (request.origin.takes_text and in_place["text"] is not None):
        return True
    return request.text.is_met_by(in_place["text"]) and _is_whole(place, in_place, [TEXT_FILE])


def _refuse_another_dataset(place: Path, manifest: dict[str, Any], request: Request) -> None:
    """Do not replace one prepared dataset by another, perhaps by a slip of the path."""
    found = manifest["made_from"].get("dataset")
    wanted = request.origin.made_from["dataset"]
    if found != wanted:
        raise InputError(
            f"{place} holds {found}, this would replace it by {wanted}; give another --datadir, or "
            "move the splits and dataset.json away."
        )


def _has_arrays(place: Path, manifest: dict[str, Any], request: Request) -> bool:
    """Tell whether the arrays asked for are in place, whole."""
    names = [*ARRAY_FILES.values(), SEGMENTS_FILE]
    if request.origin.takes_text and manifest["text"] is not None:
        names.append(TEXT_FILE)
    return manifest["made_from"] == request.origin.made_from and _is_whole(place, manifest, names)


def _is_whole(place: Path, manifest: dict[str, Any], names: list[str]) -> bool:
    """Tell whether files are there and as large as they were written."""
    paths = {f"{split}/{name}": place / split / name for split in SPLITS for name in names}
    return all(
        path.is_file() and path.stat().st_size == manifest.get("bytes", {}).get(name)
        for name, path in paths.items()
    )


def _make_encoder(request: Request, processes: Processes) -> TextEncoder | None:
    if request.text is None:
        return None
    from data.text.encoder import TextEncoder  # PyTorch, which nothing else here needs

    text = request.text
    device = processes.device(text.device)
    return TextEncoder(text.bert, device, text.precision, by_word=request.origin.is_by_word)


def _arrays(request: Request, place: Path, stage: Path) -> Path:
    """Return the folder whose splits have the arrays asked for, making them if need be."""
    made_from = request.origin.made_from
    in_place, staged = read_manifest(place), read_manifest(stage)
    if in_place is not None and _has_arrays(place, in_place, request):
        if staged is not None:  # of another request, which this one replaces
            shutil.rmtree(stage)
        return place
    if staged is not None and staged["made_from"] == made_from:
        return stage
    shutil.rmtree(stage, ignore_errors=True)
    try:
        written = request.origin.write(stage)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    manifest = asdict(written)
    manifest["splits"] = manifest.pop("counts")
    write_manifest(stage, {"made_from": made_from, **manifest})
    return stage


def _start_text(datadir: Path, encoder: TextEncoder, arrays: Path, stage: Path) -> None:
    """Clear away text features of another kind, and take those another alignment has."""
    started = stage / _TEXT_STARTED
    if started.is_file() and json.loads(started.read_text()) == encoder.description:
        return
    for split in SPLITS:
        (stage / split).mkdir(parents=True, exist_ok=True)
        for leftover in (stage / split).glob(f"{TEXT_FILE}*"):
            leftover.unlink()
    for alignment in ALIGNMENT_NAMES:
        other = alignment_folder(datadir, alignment)
        manifest = read_manifest(other)
        if (
            manifest is not None
            and manifest["text"] == encoder.description
            and _is_whole(other, manifest, [TEXT_FILE])
        ):
            for split in SPLITS:
                if _sentences(other / split) == _sentences(arrays / split):
                    _link(other / split / TEXT_FILE, stage / split / TEXT_FILE)
            break
    write_json(started, encoder.description)


def _keep_text(place: Path, stage: Path) -> dict[str, Any] | None:
    """Take over the text features in place, where new arrays have the same sentences.

    Returns their description, None when there are none to take.
    """
    manifest = read_manifest(place)
    if manifest is None or not _is_whole(place, manifest, [TEXT_FILE]):
        return None
    if any(_sentences(place / split) != _sentences(stage / split) for split in SPLITS):
        return None
    for split in SPLITS:
        _link(place / split / TEXT_FILE, stage / split / TEXT_FILE)
    return manifest["text"]


def _link(source: Path, target: Path) -> None:
    for leftover in target.parent.glob(f"{target.name}*"):
        leftover.unlink()
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _sentences(folder: Path) -> list[str] | list[WordPieces]:
    """Return what is encoded: a split's sentences, or its word pieces."""
    if (folder / PIECES_FILE).is_file():
        return [tuple(map(tuple, pair)) for pair in np.load(folder / PIECES_FILE).tolist()]
    return [row["sentence"] for row in read_segments(folder)]


def _write_text(encoder: TextEncoder, arrays: Path, stage: Path, processes: Processes) -> None:
    from data.text.encoder import write_text_features

    for split in SPLITS:
        write_text_features(
            stage / split / TEXT_FILE, _sentences(arrays / split), encoder, processes
        )


def _move_into_place(stage: Path, place: Path) -> None:
    """Move what `stage` holds into place, the manifest last. An interrupted move can go on."""
    manifest = read_manifest(stage)
    del manifest[MOVING]
    (place / MANIFEST).unlink(missing_ok=True)
    for split in SPLITS:
        (place / split).mkdir(exist_ok=True)
        for name in SPLIT_FILES:
            if (stage / split / name).exists():
                (stage / split / name).replace(place / split / name)
    written = [path for split in SPLITS for path in (place / split).iterdir()]
    manifest["bytes"] = {
        f"{path.parent.name}/{path.name}": path.stat().st_size
        for path in written
        if path.name in SPLIT_FILES
    }
    write_manifest(place, manifest)
    shutil.rmtree(stage)


def _clear_old_text(place: Path) -> None:
    """Remove text that belongs to the arrays which are about to be replaced."""
    (place / MANIFEST).unlink(missing_ok=True)
    for split in SPLITS:
        for name in (TEXT_FILE, PIECES_FILE):
            (place / split / name).unlink(missing_ok=True)
