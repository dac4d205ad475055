"""Attention maps as a picture: a line of panels a map, a panel a layer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes

from models.layers.recording import AttentionMap
from system.figures import pyplot, save_figure

_MOST_PANELS = 6  # side by side
_PANEL_WIDTH, _SPARE_WIDTH = 4.4, 1.0  # inches
_ROW_HEIGHT, _LEAST_HEIGHT, _MOST_HEIGHT, _SPARE_HEIGHT = 0.085, 0.4, 6.0, 1.2  # inches
_EVERY = 10  # positions without names have a number so often
_LONGEST_WORD = 16  # characters
_LETTERS_AN_INCH = 14  # of the title


def plot_attention(
    path: Path,
    title: str,
    maps: Mapping[str, AttentionMap],
    names: Mapping[str, Sequence[str]],
    padding: Mapping[str, int],
) -> None:
    """Draw the maps of one segment, `(layers, rows, columns)` each.

    `names` are what stands at each position of a kind, where that is known; a dotted line ends
    the first positions that are `padding`.
    """
    width = min(_MOST_PANELS, *(len(one.layers) for one in maps.values()))
    lines = [
        (name, one, range(begin, min(begin + width, len(one.layers))))
        for name, one in maps.items()
        for begin in range(0, len(one.layers), width)
    ]
    heights = [
        min(max(one.weights.shape[1] * _ROW_HEIGHT, _LEAST_HEIGHT), _MOST_HEIGHT) + _SPARE_HEIGHT
        for _, one, _ in lines
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
    title = _short(title, int(inches * _LETTERS_AN_INCH))
    figure.suptitle(title, fontsize=9, parse_math=False)
    for axes_of_line, (name, one, layers) in zip(panels, lines, strict=True):
        low, high = one.weights.min().item(), one.weights.max().item()
        for axes in axes_of_line[len(layers) :]:
            axes.axis("off")
        for axes, layer in zip(axes_of_line, layers, strict=False):
            image = axes.imshow(
                one.weights[layer].numpy(), aspect="auto", cmap="viridis", vmin=low, vmax=high
            )
            axes.set_title(f"{name.replace('_', ' ')}, {one.layers[layer]}", fontsize=8)
            _label(axes, "x", one.columns, names, padding)
            _label(axes, "y", one.rows, names, padding)
        bar = figure.colorbar(image, ax=axes_of_line, fraction=0.02, pad=0.01)
        bar.ax.tick_params(labelsize=6)
    with warnings.catch_warnings():
        # Signs that the font lacks are drawn as boxes; the arrays have the words.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        save_figure(figure, path)


def _label(
    axes: Axes,
    which: Literal["x", "y"],
    kinds: Mapping[str, int],
    names: Mapping[str, Sequence[str]],
    padding: Mapping[str, int],
) -> None:
    """Write what stands at the positions of an axis, x or y."""
    ticks, begin = {}, 0
    line = axes.axvline if which == "x" else axes.axhline
    for kind, count in kinds.items():
        for number, text in enumerate(_texts(kind, count, names)):
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


def _texts(kind: str, count: int, names: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return what stands at the positions of a kind, "" for nothing."""
    if kind in names:
        return names[kind]
    if kind == "token" and count <= _EVERY:
        return [f"z{n}" for n in range(1, count + 1)]
    shown = {1, *range(_EVERY, count + 1, _EVERY)}
    sign = "z" if kind == "token" else ""
    return [f"{sign}{n}" if n in shown else "" for n in range(1, count + 1)]


def _short(text: str, most: int) -> str:
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    return text if len(text) <= most else text[: most - 1] + "…"
