"""What a model attended to in some segments: arrays, and a picture, a segment."""

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
from system.console import print_line, print_warning
from system.errors import InputError, described
from system.files import atomic_write
from system.progress import progress
from utils.reports.evaluation import Evaluation
from utils.reports.html import Picture, Section
from utils.running.execution import autocast
from utils.running.text_encoder import tokenizer_of

if TYPE_CHECKING:
    from data.text.words import PositionNames

Wanted = int | Sequence[str]  # so many of the worst predicted segments, or those of these ids
_MOST_BYTES = 1_000_000  # of pictures in a report, as text
_LONGEST_NAME = 60  # characters of an id in a file's name


class AttentionReport:
    """The attention maps of some segments of a split.

    `model`, of the name `name`, is in evaluation mode, and still on the CPU when this is made.
    Raises InputError where there are no such segments, or no maps of this model.
    """

    def __init__(self, wanted: Wanted, name: str, model: Model, split: Split) -> None:
        self._wanted, self._split = wanted, split
        self._encoder = text_encoder_of(model)
        model = model.model if isinstance(model, WithTextEncoder) else model
        self._model = cast("HasAttention", model)
        _check_segments(wanted, split)
        known = getattr(model, "ATTENTION_MAPS", ())
        maps = self._try_model(name) if known else {}
        if not maps:
            left_out = ", ".join(getattr(model.config, "left_out", []))
            with_maps = [one for one in MODELS if getattr(find_class(one), "ATTENTION_MAPS", ())]
            raise InputError(
                f"--attention: {name} has no attention maps"
                + (f" without {left_out}" if left_out else "")
                + f"; these models have: {', '.join(with_maps)}."
            )
        missing = [one for one in known if one not in maps]
        if missing:
            print_line(f"No attention maps of what is left out: {', '.join(missing)}")

    def write(
        self, folder: Path, evaluation: Evaluation, precision: str, options: LoaderOptions
    ) -> list[Picture]:
        """Write a `.npz` and a `.png` a segment into `folder`; returns the pictures.

        The model is on its device now.
        """
        from utils.reports.attention_plot import plot_attention  # matplotlib is slow to import

        rows, pictures = self._rows(evaluation), []
        names = self._position_names(rows)
        bar = progress(rows, desc="Attention", unit="segment", disable=not options.verbose)
        for row in bar:
            with torch.no_grad(), autocast(precision, options.device):
                inputs = self._inputs(row, options.device)
                prediction, maps = self._model.with_attention(*inputs)
            maps = {
                name: one._replace(weights=one.weights[:, 0].cpu()) for name, one in maps.items()
            }
            padding = dict(zip(INPUTS, map(_padding, inputs), strict=True))
            its_names = self._names_of(row, names)
            path = folder / _file_name(row, evaluation.ids[row])
            facts = {
                "id": evaluation.ids[row],
                "prediction": prediction[0].float().cpu().numpy(),
                "label": evaluation.labels[row],
            }
            with atomic_write(path.with_name(f"{path.name}.npz")) as temporary:
                np.savez_compressed(temporary, **facts, **_arrays(maps, its_names))
            values = " ".join(f"{x} {_numbers(facts[x])}," for x in ("prediction", "label"))
            title = f"{values} segment {facts['id']}"
            picture = Picture(
                path.with_name(f"{path.name}.png"), f"Attention: {title}", is_whole=True
            )
            plot_attention(picture.path, title, maps, its_names, padding)
            pictures.append(picture)
        print_line(f"\nAttention of {len(rows):,} segments is in {folder}")
        return pictures

    def _inputs(self, row: int, device: torch.device) -> list[torch.Tensor]:
        """Return what the model gets of a segment, behind its text encoder where it has one."""
        visual, audio, text = (x.to(device) for x in self._split[[row]].inputs)
        return [visual, audio, text if self._encoder is None else self._encoder(text)]

    @property
    def _length_of_text(self) -> int:
        """How many positions the model's text has: of word pieces by word, there are others."""
        words = 0 if self._encoder is None else self._encoder.config.words
        return words or self._split.shapes[INPUTS.index("text")][0]

    @torch.no_grad()
    def _try_model(self, name: str) -> Mapping[str, AttentionMap]:
        """Return the maps of the first segment."""
        try:
            _, maps = self._model.with_attention(*self._inputs(0, torch.device("cpu")))
        except Exception as error:
            if name in MODELS:
                raise
            reason = described(error)  # somebody's own code
            raise InputError(f"--model {name} gives no attention maps ({reason}).") from error
        return maps

    def _rows(self, evaluation: Evaluation) -> list[int]:
        """Return the rows of the segments, the worst predicted ones first."""
        errors = np.abs(evaluation.predictions - evaluation.labels).mean(axis=1)
        order: list[int] = np.argsort(-errors, kind="stable").tolist()
        if isinstance(self._wanted, int):
            return order[: self._wanted]
        wanted = set(self._wanted)
        return [row for row in order if evaluation.ids[row] in wanted]

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
        """Return what stands at the positions of a segment, by kind, where that is known."""
        if names is None:
            return {}
        words = names.by_row[row]
        lengths = {kind: shape[0] for kind, shape in zip(INPUTS, self._split.shapes, strict=True)}
        lengths["text"] = self._length_of_text
        named = [kind for kind in INPUTS if names.are_words and lengths[kind] == len(words)]
        return dict.fromkeys([*named, "text"], words)


def attention_section(pictures: Sequence[Picture]) -> Section:
    """Return the section with as many of the pictures as a report has room for."""
    sizes = np.cumsum([len(picture.address) for picture in pictures])
    shown = pictures[: int(np.searchsorted(sizes, _MOST_BYTES, side="right"))]
    text = "Rows attend, columns are attended to; a panel a layer, averaged over heads. "
    if len(shown) < len(pictures):
        text += (
            f"Shown are the first {len(shown)} of {len(pictures)}; all of them are in attention/."
        )
    return Section("Attention", [text, *shown])


def _check_segments(wanted: Wanted, split: Split) -> None:
    has = f"{split.folder} has {len(split)} segments"
    if isinstance(wanted, int):
        if wanted > len(split):
            raise InputError(f"--attention {wanted}: {has}; give a smaller number.")
        return
    unknown = set(wanted).difference(split.ids)
    if unknown:
        raise InputError(
            f"--ids: there is no segment {sorted(unknown)[0]!r} in {split.folder}; give ids as in "
            "its segments.csv, or in predictions.csv."
        )


def _padding(x: torch.Tensor) -> int:
    """Count the rows of `x` `(1, T, width)` in front that are all 0."""
    used = x[0].any(dim=-1).nonzero()
    return int(used[0]) if len(used) else x.shape[1]


def _file_name(row: int, id_: str) -> str:
    """Return a name that is one on every system, and no other segment's of the split."""
    return f"{row}_{re.sub('[^A-Za-z0-9-]+', '_', id_).strip('_')[:_LONGEST_NAME]}"


def _arrays(maps: Mapping[str, AttentionMap], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return each map `(layers, rows, columns)`, and what its axes are."""
    arrays: dict[str, Any] = {}
    for name, one in maps.items():
        arrays[name] = one.weights.numpy()
        arrays[f"{name}_layers"] = np.array(one.layers)
        for axis, kinds in (("rows", one.rows), ("columns", one.columns)):
            arrays[f"{name}_{axis}"] = np.array(
                [text for kind, count in kinds.items() for text in _labels(kind, count, names)]
            )
    return arrays


def _labels(kind: str, count: int, names: Mapping[str, Sequence[str]]) -> Sequence[str]:
    return names.get(kind, [f"{kind} {number}" for number in range(1, count + 1)])


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values.tolist())
