"""Attention maps as a picture: one line of panels per map, one panel per layer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes

from models.layers.recording import AttentionMap
from system.figures import pyplot, save_figure

_MAX_PANELS = 6  # side by side
_PANEL_WIDTH, _SPARE_WIDTH = 4.4, 1.0  # inches
_ROW_HEIGHT, _MIN_HEIGHT, _MAX_HEIGHT, _SPARE_HEIGHT = 0.085, 0.4, 6.0, 1.2  # inches
_NUMBER_STEP = 10  # of positions without names, every tenth has a number
_LONGEST_WORD = 16  # characters
_CHARACTERS_PER_INCH = 14  # of the title


def plot_attention(
    path: Path,
    title: str,
    maps: Mapping[str, AttentionMap],
    names: Mapping[str, Sequence[str]],
    padding: Mapping[str, int],
) -> None:
    """Draw the maps of one segment, `(layers, rows, columns)` each.

    `names` are the words at the positions of a modality, where they are known; a dotted line marks
    the end of the `padding`, which is a number of positions at the front.
    """
    width = min(_MAX_PANELS, *(len(map_.layers) for map_ in maps.values()))
    lines = [
        (name, map_, range(begin, min(begin + width, len(map_.layers))))
        for name, map_ in maps.items()
        for begin in range(0, len(map_.layers), width)
    ]
    heights = [
        min(max(map_.weights.shape[1] * _ROW_HEIGHT, _MIN_HEIGHT), _MAX_HEIGHT) + _SPARE_HEIGHT
        for _, map_, _ in lines
    ]
    inches = width * _PANEL_WIDTH + _SPARE_WIDTH
    figure, panels = pyplot.subplots(
        len(lines),
        width,
        figsize=(inches, sum(heights) + 0.5),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    title = _short(title, int(inches * _CHARACTERS_PER_INCH))
    figure.suptitle(title, fontsize=9, parse_math=False)
    for line_axes, (name, map_, layers) in zip(panels, lines, strict=True):
        low, high = map_.weights.min().item(), map_.weights.max().item()
        for axes in line_axes[len(layers) :]:
            axes.axis("off")
        for axes, layer in zip(line_axes, layers, strict=False):
            image = axes.imshow(
                map_.weights[layer].numpy(), aspect="auto", cmap="viridis", vmin=low, vmax=high
            )
            axes.set_title(f"{name.replace('_', ' ')}, {map_.layers[layer]}", fontsize=8)
            _label_axis(axes, "x", map_.columns, names, padding)
            _label_axis(axes, "y", map_.rows, names, padding)
        bar = figure.colorbar(image, ax=line_axes, fraction=0.02, pad=0.01)
        bar.ax.tick_params(labelsize=6)
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; the .npz file has the words.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        save_figure(figure, path)


def _label_axis(
    axes: Axes,
    which: Literal["x", "y"],
    kinds: Mapping[str, int],
    names: Mapping[str, Sequence[str]],
    padding: Mapping[str, int],
) -> None:
    """Label the positions of the x or y axis, and draw lines between modalities."""
    ticks, begin = {}, 0
    line = axes.axvline if which == "x" else axes.axhline
    for kind, count in kinds.items():
        for number, text in enumerate(_position_labels(kind, count, names)):
            if text:
                ticks[begin + number] = _short(text, _LONGEST_WORD)
        if 0 < padding.get(kind, 0) < count:
            line(begin + padding[kind] - 0.5, color="white", linestyle=":", linewidth=0.8)
        if begin:
            line(begin - 0.5, color="white", linewidth=1.2)
        begin += count
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(list(ticks), list(ticks.values()), parse_math=False)
    axes.tick_params(axis=which, labelsize=5, length=1.5, labelrotation=90 if which == "x" else 0)
    axis.set_label_text(", ".join(kinds), fontsize=7)


def _position_labels(kind: str, count: int, names: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return the label of each position of a modality, "" for none."""
    if kind in names:
        return names[kind]
    if kind == "token" and count <= _NUMBER_STEP:
        return [f"z{n}" for n in range(1, count + 1)]
    numbered = {1, *range(_NUMBER_STEP, count + 1, _NUMBER_STEP)}
    prefix = "z" if kind == "token" else ""
    return [f"{prefix}{n}" if n in numbered else "" for n in range(1, count + 1)]


def _short(text: str, max_length: int) -> str:
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= max_length else text[: max_length - 1] + "…"
