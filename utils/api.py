"""What `main_msaf.py` does, as Python functions: run, evaluate, predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.layout import SPLITS
from models.checkpoint import MODALITIES, read_checkpoint
from models.contract import Model
from models.registry import restore
from models.text_encoder import TextEncoder, text_encoder_of
from system.errors import InputError
from system.processes import SINGLE_PROCESS
from utils.reports.evaluate_checkpoint import evaluate_checkpoint
from utils.reports.evaluation import Evaluation, NotFinite
from utils.run_config import TEXT_ENCODER_SETTINGS, RunConfig
from utils.running.setup import make_options
from utils.running.text_encoder import cutter_of
from utils.tasks import Scores
from utils.training.run import train

Segments = np.ndarray | Tensor | Sequence[np.ndarray | Tensor]


class Run(NamedTuple):
    """The result of a training."""

    scores: Scores  # of the test split at the best validation epoch
    predictions: np.ndarray  # (N, outputs) float32, of that split in file order
    folder: Path  # with the checkpoints, `best.pth` among them


def run(config: RunConfig, resume: str | None = None, overwrite: bool = False) -> Run:
    """Train as `main_msaf.py --train` does: writes the same files, prints the same lines.

    `resume` and `overwrite` are its options of these names. Raises InputError for what the
    command line would refuse.
    """
    if resume is not None and overwrite:
        raise InputError("run: resume and overwrite exclude each other; give one of them.")
    if overwrite and not config.save:
        raise InputError("run: overwrite writes files, but save is False; leave one of them out.")
    evaluation = train(config, make_options(config, SINGLE_PROCESS), resume, overwrite)
    return Run(evaluation.scores, evaluation.predictions, config.checkpointdir)


def evaluate(
    checkpoint: str | Path, datadir: str | Path, split: str = "test", **settings: Any
) -> Evaluation:
    """Score a checkpoint on a split as `main_msaf.py --checkpoint` does.

    `settings` are other fields of `RunConfig`: `save=False` writes no results. Raises InputError
    if checkpoint and split do not fit, or for settings of the model and its text encoder, which
    the checkpoint has.
    """
    config = RunConfig(checkpoint=Path(checkpoint), datadir=Path(datadir), **settings)
    for name in ("set", "finetune_bert", *TEXT_ENCODER_SETTINGS):
        if getattr(config, name) != getattr(RunConfig(), name):
            raise InputError(
                f"evaluate: {name} is for training; leave it out: {checkpoint} has its model."
            )
    if split not in SPLITS and not (config.data_folder / split).is_dir():
        raise InputError(f"evaluate: split is {split!r}, expected one of {', '.join(SPLITS)}.")
    return evaluate_checkpoint(config, split, make_options(config, SINGLE_PROCESS))


@torch.no_grad()
def predict(
    model: Model | str | Path,
    visual: Segments,
    audio: Segments,
    text: Segments | Sequence[str],
    batch_size: int = 64,
    model_name: str | None = None,
) -> np.ndarray:
    """Return the predictions of N segments, `(N, outputs)` float32, of a model or a checkpoint.

    A checkpoint of a user's own model needs `model_name`, its FILE.py:CLASS; so does one that names
    no model, unless it is NHFNet's.

    Each modality is `(N, T, width)`, or a list of N arrays or tensors `(t, width)` of any
    lengths. A segment is predicted at its own lengths, without padding: its prediction depends
    on no other segment and no batch size. -inf and NaN are read as 0, as from files. The text of
    a model with a text encoder is N sentences, or their word pieces, a row a piece: those of
    pieces50.npy transposed, `(N, T, 2)`. Raises InputError if widths or numbers of segments do
    not fit, or if a prediction is not a finite number.
    """
    if isinstance(text, str):  # its letters would be taken for sentences
        raise InputError("predict: text is one sentence; give a list, with a sentence a segment.")
    if not isinstance(model, nn.Module):
        _, model = restore(read_checkpoint(Path(model)), model_name)
    encoder = text_encoder_of(model)
    sentences = [item for item in text if isinstance(item, str)]
    if encoder is not None and len(sentences) == len(text):
        cutter = cutter_of(encoder, "the checkpoint")
        text = [cutter.cut([sentence])[0].T for sentence in sentences]  # each at its own length
    elif encoder is not None and sentences:
        raise InputError(
            f"predict: {len(sentences)} of {len(text)} texts are sentences; give all as sentences, "
            "or all as word pieces."
        )
    modalities = dict(zip(MODALITIES, (visual, audio, text), strict=True))
    inputs = [_checked(kind, rows, model.widths[kind]) for kind, rows in modalities.items()]
    counts = {kind: len(segments) for kind, segments in zip(modalities, inputs, strict=True)}
    if len(set(counts.values())) > 1:
        raise InputError(f"predict: numbers of segments differ: {counts}; they must be equal.")
    if encoder is not None:
        for pieces in inputs[MODALITIES.index("text")]:
            _check_pieces(encoder, pieces)
    is_count = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
    if not is_count or batch_size < 1:
        raise InputError(f"predict: batch_size is {batch_size!r}, expected a whole number above 0.")
    predictions = np.empty((counts["text"], model.outputs), dtype=np.float32)
    weights = [*model.parameters(), *model.buffers()]
    was_training, device = model.training, weights[0].device if weights else torch.device("cpu")
    model.eval()
    try:
        for batch in _batches(inputs, batch_size):
            tensors = (torch.stack([modality[n] for n in batch]).to(device) for modality in inputs)
            predictions[batch] = model(*tensors).float().cpu().numpy()
    finally:
        model.train(was_training)
    _check_finite(predictions)
    return predictions


def _check_finite(predictions: np.ndarray) -> None:
    """Raise NotFinite where a prediction is NaN or infinite."""
    wrong = np.argwhere(~np.isfinite(predictions))
    if len(wrong):
        raise NotFinite(
            f"predict: the model predicts {predictions[tuple(wrong[0])]} for segment {wrong[0][0]} "
            f"({len(wrong)} such predictions): its inputs are too large for a network, or the "
            "weights are damaged; scale the inputs as in training, or use another checkpoint."
        )


def _check_pieces(encoder: TextEncoder, pieces: Tensor) -> None:
    if not torch.equal(pieces, pieces.round()):
        raise InputError("predict: text: word pieces must be whole numbers, as in pieces50.npy.")
    encoder.check_length(len(pieces), "predict: text")
    lowest, highest = (limits.int().tolist() for limits in pieces.aminmax(dim=0))
    encoder.check_pieces(lowest, highest, "predict: text")


def _checked(kind: str, segments: Segments | Sequence[str], width: int) -> list[Tensor]:
    """Return each segment `(t, width)`, float32 and finite."""
    tensors = []
    for number, segment in enumerate(segments):
        if isinstance(segment, str):
            raise InputError("predict: this model takes features of text, not sentences.")
        rows = torch.as_tensor(segment).float()
        if rows.dim() != 2 or rows.shape[1] != width or not len(rows):
            is_transposed = rows.dim() == 2 and rows.shape[0] == width
            raise InputError(
                f"predict: {kind} of segment {number} has shape {tuple(rows.shape)}, expected "
                f"(rows, {width}) with at least one row{'; transpose it' * is_transposed}."
            )
        tensors.append(rows.nan_to_num(0, 0, 0))
    return tensors


def _batches(inputs: list[list[Tensor]], size: int) -> Iterator[list[int]]:
    """Yield batches of segment numbers: up to `size` segments of the same lengths in each."""
    by_lengths: dict[tuple[int, ...], list[int]] = {}
    for number, segment in enumerate(zip(*inputs, strict=True)):
        by_lengths.setdefault(tuple(map(len, segment)), []).append(number)
    for numbers in by_lengths.values():
        for begin in range(0, len(numbers), size):
            yield numbers[begin : begin + size]
