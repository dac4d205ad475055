"""Predicting segments without labels: of a prepared dataset, or of a processed pickle."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.layout import ALIGNMENT_NAMES, BATCH_FILES, PIECES_FILE, SPLITS, iterate_segments
from data.loading.on_device import place_splits
from data.loading.options import LoaderOptions
from data.loading.split import Split
from data.manifest import splits_of
from data.npy import NpyReader
from data.preparing.pickle_source import PickleSource
from data.preparing.pipeline import prepare
from data.preparing.request import Request, TextRequest
from data.text.bert_files import find_bert, hidden_size
from data.text.pieces import write_pieces
from models.checkpoint import Checkpoint, read_checkpoint
from models.contract import Model
from models.registry import restore
from models.text_encoder import TextEncoder
from system.console import print_line, print_warning
from system.errors import InputError
from system.files import write_csv
from utils.reports.evaluation import (
    Predictor,
    evaluation_options,
    predict_split,
    report_not_finite,
)
from utils.reports.html import warning_if_unwritten
from utils.reports.predict_report import write_prediction_report
from utils.reports.results import evaluation_folder, values_by_segment
from utils.run_config import RunConfig
from utils.running.setup import (
    check_widths,
    compare_widths,
    open_model,
    place_model,
    scores_trained_on,
)
from utils.running.text_encoder import cutter_of
from utils.tasks import Task


def predict_path(config: RunConfig, path: Path, bert: str | None, options: LoaderOptions) -> None:
    """Predict all segments in `path` with `config.checkpoint`.

    `path` is a prepared dataset, one of its splits, or a processed pickle, whose sentences `bert`
    encodes if it is given. Raises InputError when a file cannot be read, or the data do not fit
    the model.
    """
    checkpoint = read_checkpoint(config.needed_checkpoint)
    config.resultdir.mkdir(parents=True, exist_ok=True)  # raises before the work
    if bert is not None and checkpoint.text_encoder is not None:
        raise InputError(f"--bert: {checkpoint.path} has its own text encoder; leave --bert out.")
    with _open_splits(path, bert, checkpoint, config, options) as splits:
        config, model, task = open_model(config, checkpoint, splits[0], is_labelled=False)
        for split in splits[1:]:
            check_widths(model, split)
        placed = place_splits({str(split.folder): split for split in splits}, options)
        options = evaluation_options(options, placed[str(splits[0].folder)])
        predictor = Predictor(place_model(model, options), config.precision, options)
        digest = " ".join(split.digest for split in splits)
        results = evaluation_folder(config, checkpoint, digest)
        for split in splits:
            name = split.folder.resolve().name
            predictions, not_finite = predict_split(
                predictor, placed[str(split.folder)], task, options
            )
            report_not_finite({name: not_finite})
            if options.processes.is_first:
                folder = results / "predicted" / name
                _write(folder / "predictions.csv", split, predictions, task)
                with warning_if_unwritten(report := folder / "report.html"):
                    write_prediction_report(
                        report,
                        config,
                        checkpoint,
                        split,
                        predictions,
                        task,
                        options.device,
                        path,
                    )
                print_line(f"{len(split):,} predictions are in {folder / 'predictions.csv'}")


@contextmanager
def _open_splits(
    path: Path, bert: str | None, checkpoint: Checkpoint, config: RunConfig, options: LoaderOptions
) -> Iterator[list[Split]]:
    """Open the splits of a prepared dataset, or of a pickle as a temporary dataset."""
    in_pieces = checkpoint.text_encoder is not None
    if not path.exists():
        raise InputError(f"--predict: there is no {path}; give a prepared dataset, or a pickle.")
    if path.name in ("", ".."):  # so that `path.parent`, which may have the manifest, is right
        path = path.resolve()
    folders = [path] if (path / BATCH_FILES["visual"]).is_file() else []
    folders = folders or [path / name for name in SPLITS if (path / name).is_dir()]
    if folders:
        if bert is not None:
            raise InputError(f"--bert goes with a pickle; {path} is prepared and has its text.")
        yield [Split(folder, needs_labels=False, takes_pieces=in_pieces) for folder in folders]
        return
    processes = options.processes
    with tempfile.TemporaryDirectory(prefix="nhfnet-") as temporary:
        folder = Path(processes.broadcast(temporary))  # that of the first process
        try:
            takes_text = bert is None and not in_pieces
            scores = scores_trained_on(checkpoint)
            source = PickleSource(path, takes_text, scores, uses_labels=False)
            if in_pieces:
                source = replace(source, advice=f"{checkpoint.path} predicts from words alone")
            request = Request(folder, ALIGNMENT_NAMES[0], source, text=None)
            manifest = prepare(request, processes)
            if bert is not None:
                _check_widths(manifest, folder, bert, restore(checkpoint, config.model)[1])
                text = TextRequest(bert, "float32", config.device)
                manifest = prepare(replace(request, text=text), processes)
            for reason, count in manifest["left_out"].items():
                print_warning(f"{path}: {count:,} segments are not predicted because the {reason}")
            folders = [folder / name for name in splits_of(manifest)]
            if in_pieces:
                if processes.is_first:
                    _cut_sentences(path, folders, checkpoint, source.is_by_word)
                processes.broadcast(None)
            elif manifest["text"] is None:
                raise InputError(
                    f"{path} has words, but no text features; give --bert, the text encoder "
                    "of the data that the checkpoint was trained on."
                )
            yield [Split(each, needs_labels=False, takes_pieces=in_pieces) for each in folders]
            processes.broadcast(None)  # all processes have read the first one's folder
        except InputError as error:
            raise InputError(str(error).replace(str(folder), str(path))) from error


def _check_widths(manifest: dict[str, Any], folder: Path, bert: str, model: Model) -> None:
    """Raise InputError, before encoding, when data or `bert` do not have the model's widths."""
    for split in splits_of(manifest):
        paths = {kind: folder / split / BATCH_FILES[kind] for kind in ("visual", "audio")}
        widths = {kind: NpyReader(path).shape[2] for kind, path in paths.items()}
        compare_widths(model, widths, str(folder / split))
    width = hidden_size(str(find_bert(bert)[0]))
    if width is not None:
        compare_widths(model, {"text": width}, f"--bert {bert}")


def _cut_sentences(
    path: Path, folders: Sequence[Path], checkpoint: Checkpoint, by_word: bool
) -> None:
    """Write the word pieces of each split's sentences, for the checkpoint's own text encoder."""
    with torch.device("meta"):  # without weights
        encoder = TextEncoder.from_description(checkpoint.text_encoder or {}, str(checkpoint.path))
    if by_word != (encoder.config.words > 0):
        alignment, expected = ("", "are not") if by_word else ("not ", "are")
        raise InputError(
            f"{path} is {alignment}aligned by word, but {checkpoint.path} was trained on data that "
            f"{expected}; give a pickle with that alignment."
        )
    cutter = cutter_of(encoder, str(checkpoint.path))
    for folder in folders:
        if not (folder / PIECES_FILE).is_file():
            sentences = [row["sentence"] for row in iterate_segments(folder)]
            if empty := sum(not sentence.strip() for sentence in sentences):
                print_warning(
                    f"{path}: {empty:,} of {len(sentences):,} sentences of {folder.name} are "
                    "empty: these segments are predicted without text"
                )
            write_pieces(folder / PIECES_FILE, sentences, cutter)


def _write(path: Path, split: Split, predictions: np.ndarray, task: Task) -> None:
    """Write a row per segment: id, each output's prediction and class, and the sentence."""
    columns = [predictions.astype(object)]
    if task.scale is not None:
        names = np.array(task.scale.class_names)
        columns.append(names[task.scale.classes(predictions.ravel())].reshape(predictions.shape))
    titles = ("prediction", "class")[: len(columns)]
    sentences = (row["sentence"] for row in iterate_segments(split.folder))
    rows = zip(split.ids, values_by_segment(columns), chain(sentences, repeat("")), strict=False)
    lines = ([id_, *values, sentence] for id_, values, sentence in rows)
    write_csv(path, chain([["id", *task.column_names(*titles), "sentence"]], lines))
