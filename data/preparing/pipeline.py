"""Carrying out a plan: foreign files -> `<datadir>/{train,val,test}/*.npy`.

Everything is made in `.preparing` beside the splits and moved into place when it is complete,
so that an interrupted preparation can be continued, and the files in place stay complete. A
manifest is written only once all files that it describes are on the disk.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from data.layout import TEXT_FILE, iterate_segments
from data.manifest import splits_of, write_manifest
from data.preparing.moving import move_into_place, put_into_place, staged_files
from data.preparing.plan import Arrays, Plan, Text, decide
from data.preparing.request import Request
from data.preparing.text import cut_text, keep_text, sentences_of, start_text
from data.text.bert_files import find_bert
from data.text.feature_file import write_text_features
from data.text.pieces import PieceCutter, vocabulary_digest, vocabulary_text
from system.console import print_line, print_warning
from system.errors import InputError
from system.files import flush_all, make_folder
from system.processes import Processes

if TYPE_CHECKING:
    from data.text.encoder import TextEncoder


def prepare(request: Request, processes: Processes) -> dict[str, Any]:
    """Write the arrays, encode the text, and put the splits into place; returns the manifest.

    Files that were made from the same sources are not made again. With several processes, the
    first does everything but the others' share of the text. Raises InputError when a source file
    is wrong; the files in place are unchanged then.
    """
    plan = processes.broadcast(_decide_and_end_move(request) if processes.is_first else None)
    if plan.is_done:
        return processes.broadcast(_name_encoder(plan) if processes.is_first else None)
    if plan.adds_pieces:  # and changes nothing else
        return processes.broadcast(_add_pieces_alone(plan) if processes.is_first else None)
    # BERT first: an error in it should show before the long alignment.
    encoder = _load_encoder(plan, processes) if plan.text is Text.ENCODE else None
    manifest = processes.broadcast(_ensure_arrays(plan) if processes.is_first else None)
    if plan.text is Text.ENCODE_IF_MISSING and manifest["text"] is None:
        encoder = _load_encoder(plan, processes)
    if encoder is not None:
        unknown = _write_text(plan, encoder, processes, splits_of(manifest))
        manifest = {**manifest, "text": {**encoder.description, "unknown_pieces": unknown}}
    if processes.is_first:
        piece_files: list[str] = []
        if encoder is not None:
            manifest, piece_files = _add_pieces(plan, encoder.cutter, manifest)
        if plan.arrays is not Arrays.KEEP and manifest["text"] is None:
            text = keep_text(plan.prepared, plan.stage, splits_of(manifest))
            manifest = {**manifest, "text": text}
        text_files = [f"{split}/{TEXT_FILE}" for split in splits_of(manifest)] if encoder else []
        manifest = put_into_place(plan, manifest, [*text_files, *piece_files])
    return processes.broadcast(manifest)


def _decide_and_end_move(request: Request) -> Plan:
    """Complete an interrupted move, if there is one, and plan from what is in place then."""
    plan = decide(request)
    if plan.ends_move:
        move_into_place(plan.request.folder, plan.in_place.manifest)
        plan = decide(request)
    return plan


def _name_encoder(plan: Plan) -> dict[str, Any]:
    """Return the manifest in place; where the BERT's folder has moved, it names the new one."""
    manifest, request = plan.in_place.manifest, plan.request.text
    text = manifest["text"]
    if request is None or not request.is_met_by(text) or text["encoder"] == request.bert:
        return manifest
    named = {**manifest, "text": {**text, "encoder": request.bert}}
    return write_manifest(plan.request.folder, named)


def _load_encoder(plan: Plan, processes: Processes) -> TextEncoder:
    from data.text.encoder import TextEncoder  # PyTorch, which nothing else here needs

    text = plan.request.text
    assert text is not None  # or there is nothing to encode
    device = processes.device(text.device)
    by_word = plan.request.source.is_by_word
    encoder = TextEncoder(text.bert, device, text.precision, by_word)
    comparison = encoder.compare_precisions() if processes.is_first else None
    if comparison is not None:
        print_line(comparison)
    return encoder


def _add_pieces_alone(plan: Plan) -> dict[str, Any]:
    """Add word pieces to a dataset that lacks nothing else; returns its manifest.

    Warns and changes nothing if the tokenizer of the BERT that encoded the text is not available.
    """
    from data.text.bert import load_tokenizer

    text, request = plan.in_place.manifest["text"], plan.request.text
    assert request is not None  # or no pieces are added
    commit = text.get("commit") if text["encoder"] == request.bert else None
    try:
        folder, _ = find_bert(request.bert, commit=commit, with_weights=False)
        tokenizer, config = load_tokenizer(folder)
    except InputError as error:
        print_warning(f"no word pieces are added, which --finetune_bert needs: {error}")
        return plan.in_place.manifest
    by_word = plan.request.source.is_by_word
    cutter = PieceCutter(tokenizer, config.max_position_embeddings, by_word)
    return put_into_place(plan, *_add_pieces(plan, cutter, _ensure_arrays(plan)))


def _add_pieces(
    plan: Plan, cutter: PieceCutter, manifest: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Write word pieces beside the text features; returns the manifest and the files' names."""
    files = cut_text(plan, cutter, splits_of(manifest))
    if not files:  # the source had pieces, of an unknown vocabulary
        return manifest, files
    digest = vocabulary_digest(vocabulary_text(cutter.tokenizer.vocab))
    return {**manifest, "text": {**manifest["text"], "vocabulary": digest}}, files


def _ensure_arrays(plan: Plan) -> dict[str, Any]:
    """Make the arrays unless they exist; returns their manifest."""
    if plan.arrays is Arrays.KEEP and plan.staged is not None:  # left by another request
        shutil.rmtree(plan.stage)
    if plan.arrays_manifest is not None:
        return plan.arrays_manifest
    shutil.rmtree(plan.stage, ignore_errors=True)
    has_overflown = Event()
    make_folder(plan.stage)
    try:
        with np.errstate(over="call", call=lambda *_: has_overflown.set()):
            written = plan.request.source.write(plan.stage)
        _refuse_other_videos(plan, written)
    except BaseException:
        shutil.rmtree(plan.stage, ignore_errors=True)
        raise
    if has_overflown.is_set():
        warnings.warn(
            f"{plan.request.source.title}: some values are too large for float32, 3.4e38: they are "
            "infinite in the arrays, and read as 0",
            stacklevel=2,
        )
    folders = [plan.stage / split for split in written["splits"]]
    files = [path for folder in folders for path in folder.iterdir()]
    flush_all(files, [*folders, plan.stage])
    manifest = {"made_from": plan.request.source.made_from, **written}
    return write_manifest(
        plan.stage, {**manifest, "files": staged_files(plan.stage, written["splits"])}
    )


def _refuse_other_videos(plan: Plan, written: dict[str, Any]) -> None:
    """Raise InputError if the arrays to replace share no video with the new ones.

    `decide` compares titles, but a pickle's title is its file name, and MMSA uses the same file
    name for all of its datasets.
    """
    if plan.prepared is None or plan.request.is_forced:
        return
    old_videos = _videos_in(plan.request.folder, splits_of(plan.prepared.manifest))
    if old_videos and old_videos.isdisjoint(_videos_in(plan.stage, written["splits"])):
        raise InputError(
            f"{plan.request.folder} holds other videos (such as {min(old_videos)}) than "
            f"{plan.request.source.title}; give another --datadir, or --force to replace them all."
        )


def _videos_in(folder: Path, splits: Iterable[str]) -> set[str]:
    """Return the videos of a dataset; none if a table is damaged or missing."""
    try:
        return {row["video"] for split in splits for row in iterate_segments(folder / split)}
    except (InputError, OSError):
        return set()


def _write_text(
    plan: Plan, encoder: TextEncoder, processes: Processes, splits: Sequence[str]
) -> dict[str, float]:
    """Write each split's text features; returns the share of unknown word pieces of each."""
    from data.text.encoder import unknown_share

    linked_splits = processes.broadcast(
        start_text(plan, encoder.description, splits) if processes.is_first else None
    )
    unknown: dict[str, float] = {}
    for split in splits:
        sentences = sentences_of(plan.arrays_folder / split)
        if processes.is_first:
            unknown[split] = unknown_share(encoder, split, sentences)
        if split not in linked_splits:
            write_text_features(plan.stage / split / TEXT_FILE, sentences, encoder, processes)
    return unknown
