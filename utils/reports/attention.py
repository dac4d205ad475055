"""Attention maps of some segments: for each segment an `.npz` file and a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from data.loading.options import LoaderOptions
from data.loading.split import INPUTS, Split
from models.contract import Model
from models.layers.recording import AttentionMap, HasAttention
from models.registry import MODELS, find_class
from models.text_encoder import WithTextEncoder, text_encoder_of
from system.console import fixed, print_line, print_warning
from system.errors import InputError, described
from system.files import atomic_write
from system.progress import progress
from utils.reports.evaluation import Evaluation
from utils.reports.html import Picture, Section
from utils.running.execution import autocast
from utils.running.text_encoder import tokenizer_of

if TYPE_CHECKING:
    from data.text.words import PositionNames

# The segments to show: this many of the worst predicted ones, or those with these ids.
Segments = int | Sequence[str]
_MAX_BYTES = 1_000_000  # of pictures in a report, in base64
_LONGEST_ID = 60  # characters of an id in a file name


class AttentionReport:
    """The attention maps of the `chosen` segments of a split.

    `model` is in evaluation mode, and on the CPU at construction; `name` is its name for messages.
    Raises InputError when the split lacks a chosen segment, or the model has no maps.
    """

    def __init__(self, chosen: Segments, name: str, model: Model, split: Split) -> None:
        self._chosen, self._split = chosen, split
        self._encoder = text_encoder_of(model)
        model = model.model if isinstance(model, WithTextEncoder) else model
        self._model = cast("HasAttention", model)
        _check_segments(chosen, split)
        map_names = getattr(model, "ATTENTION_MAPS", ())
        maps = self._try_model(name) if map_names else {}
        if not maps:
            left_out = ", ".join(getattr(model.config, "left_out", []))
            with_maps = [key for key in MODELS if getattr(find_class(key), "ATTENTION_MAPS", ())]
            raise InputError(
                f"--attention: {name} has no attention maps"
                + (f" without {left_out}" if left_out else "")
                + f"; models with attention maps: {', '.join(with_maps)}."
            )
        missing = [map_name for map_name in map_names if map_name not in maps]
        if missing:
            print_line(f"No attention maps of parts that are left out: {', '.join(missing)}")

    def write(
        self, folder: Path, evaluation: Evaluation, precision: str, options: LoaderOptions
    ) -> list[Picture]:
        """Write an `.npz` and a `.png` per segment into `folder`; return the pictures.

        The model has to be on the device of `options`.
        """
        from utils.reports.attention_plot import plot_attention  # matplotlib is slow to import

        rows, pictures = self._rows(evaluation), []
        names = self._position_names(rows)
        bar = progress(rows, desc="Attention", unit="segment", disable=not options.verbose)
        for row in bar:
            with torch.no_grad(), autocast(precision, options.device):
                inputs = self._inputs(row, options.device)
                prediction, maps = self._model.with_attention(*inputs)
            maps = {name: m._replace(weights=m.weights[:, 0].cpu()) for name, m in maps.items()}
            padding = dict(zip(INPUTS, map(_padding, inputs), strict=True))
            segment_names = self._names_of(row, names)
            path = folder / _file_name(row, evaluation.ids[row])
            facts = {
                "id": evaluation.ids[row],
                "prediction": prediction[0].float().cpu().numpy(),
                "label": evaluation.labels[row],
            }
            with atomic_write(path.with_name(f"{path.name}.npz")) as temporary:
                np.savez_compressed(temporary, **facts, **_arrays(maps, segment_names))
            predicted, label = _numbers(facts["prediction"]), _numbers(facts["label"])
            title = f"prediction {predicted}, label {label}, segment {facts['id']}"
            png_path = path.with_name(f"{path.name}.png")
            picture = Picture(png_path, f"Attention: {title}", is_whole=True)
            plot_attention(png_path, title, maps, segment_names, padding)
            pictures.append(picture)
        print_line(f"\nAttention of {len(rows):,} segments is in {folder}")
        return pictures

    def _inputs(self, row: int, device: torch.device) -> list[torch.Tensor]:
        """Return the model's inputs of one segment; a text encoder has already encoded the text."""
        visual, audio, text = (x.to(device) for x in self._split[[row]].inputs)
        return [visual, audio, text if self._encoder is None else self._encoder(text)]

    @property
    def _length_of_text(self) -> int:
        """Number of positions of the text that the model gets: words if its encoder makes them."""
        words = 0 if self._encoder is None else self._encoder.config.words
        return words or self._split.shapes[INPUTS.index("text")][0]

    @torch.no_grad()
    def _try_model(self, name: str) -> Mapping[str, AttentionMap]:
        """Return the attention maps of the first segment, to see which ones the model has."""
        try:
            _, maps = self._model.with_attention(*self._inputs(0, torch.device("cpu")))
        except Exception as error:
            if name in MODELS:
                raise
            reason = described(error)  # any error of the user's code
            raise InputError(f"--model {name} gives no attention maps ({reason}).") from error
        return maps

    def _rows(self, evaluation: Evaluation) -> list[int]:
        """Return the rows of the chosen segments, the worst predicted ones first."""
        errors = np.abs(evaluation.predictions - evaluation.labels).mean(axis=1)
        order: list[int] = np.argsort(-errors, kind="stable").tolist()
        if isinstance(self._chosen, int):
            return order[: self._chosen]
        chosen_ids = set(self._chosen)
        return [row for row in order if evaluation.ids[row] in chosen_ids]

    def _position_names(self, rows: Sequence[int]) -> PositionNames | None:
        from data.text.words import name_positions  # the tokenizer's package is slow to import

        try:
            encoder = self._encoder
            tokenizer = None if encoder is None else tokenizer_of(encoder, "the checkpoint")
            return name_positions(self._split.folder, rows, self._length_of_text, tokenizer)
        except InputError as error:
            print_warning(f"the positions of text are numbered in the pictures: {error}")
            return None

    def _names_of(self, row: int, names: PositionNames | None) -> dict[str, list[str]]:
        """Return the words at the positions of a segment, by modality, where they are known."""
        if names is None:
            return {}
        words = names.by_row[row]
        lengths = {kind: shape[0] for kind, shape in zip(INPUTS, self._split.shapes, strict=True)}
        lengths["text"] = self._length_of_text
        aligned = [kind for kind in INPUTS if names.are_words and lengths[kind] == len(words)]
        return dict.fromkeys([*aligned, "text"], words)


def attention_section(pictures: Sequence[Picture]) -> Section:
    """Return the section with the first pictures, as many as a report has room for."""
    sizes = np.cumsum([len(picture.address) for picture in pictures])
    shown = pictures[: int(np.searchsorted(sizes, _MAX_BYTES, side="right"))]
    text = "Rows attend, columns are attended to; a panel a layer, averaged over heads. "
    if len(shown) < len(pictures):
        text += (
            f"Shown are the first {len(shown)} of {len(pictures)}; all of them are in attention/."
        )
    return Section("Attention", [text, *shown])


def _check_segments(chosen: Segments, split: Split) -> None:
    if isinstance(chosen, int):
        if chosen > len(split):
            size = f"{split.folder} has {len(split)} segments"
            raise InputError(f"--attention {chosen}: {size}; give a smaller number.")
        return
    unknown = set(chosen).difference(split.ids)
    if unknown:
        raise InputError(
            f"--ids: there is no segment {sorted(unknown)[0]!r} in {split.folder}; give ids as in "
            "its segments.csv, or in predictions.csv."
        )


def _padding(x: torch.Tensor) -> int:
    """Return the number of padding rows of `x` `(1, T, width)`: those in front that are all 0."""
    filled = x[0].any(dim=-1).nonzero()
    return int(filled[0]) if len(filled) else x.shape[1]


def _file_name(row: int, id_: str) -> str:
    """Return a file name that is valid on every system, and unique among the split's segments."""
    return f"{row}_{re.sub('[^A-Za-z0-9-]+', '_', id_).strip('_')[:_LONGEST_ID]}"


def _arrays(maps: Mapping[str, AttentionMap], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the arrays of each map, `(layers, rows, columns)`, and the labels of its axes."""
    arrays: dict[str, Any] = {}
    for name, map_ in maps.items():
        arrays[name] = map_.weights.numpy()
        arrays[f"{name}_layers"] = np.array(map_.layers)
        for axis, kinds in (("rows", map_.rows), ("columns", map_.columns)):
            arrays[f"{name}_{axis}"] = np.array(
                [text for kind, count in kinds.items() for text in _labels(kind, count, names)]
            )
    return arrays


def _labels(kind: str, count: int, names: Mapping[str, Sequence[str]]) -> Sequence[str]:
    return names.get(kind, [f"{kind} {number}" for number in range(1, count + 1)])


def _numbers(values: np.ndarray) -> str:
    return ", ".join(fixed(value, 2) for value in values.tolist())
