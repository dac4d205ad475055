"""A figure of what a prepared dataset holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer

from data.checking.summary import SplitSummary
from data.labels import Scale
from system.errors import InputError
from system.figures import pyplot, save_figure

_COLORS = {"train": "C0", "val": "C1", "test": "C2"}


def plot_dataset(path: Path, splits: Mapping[str, SplitSummary], scale: Scale) -> None:
    """Draw the sentiments, segment lengths and padding of each split, by its name.

    Shares are of each split's segments or rows, so that large and small splits can be compared.
    Raises InputError when no split has a labelled segment.
    """
    drawn = {name: split for name, split in splits.items() if len(split.sentiments)}
    if not drawn:
        if any(array.shape[0] for split in splits.values() for array in split.arrays.values()):
            raise InputError(
                f"No labels to draw {path} from; use a dataset with labels (--check lists what "
                f"{path.parent} holds)."
            )
        raise InputError(f"No segments to draw {path} from; prepare the dataset first.")
    figure, panels = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    _draw_bars(panels[0], {name: split.class_shares(scale) for name, split in drawn.items()})
    panels[0].set(xlabel="sentiment, by class", ylabel="share of segments", title="Sentiment")
    _draw_lengths(panels[1], drawn)
    _draw_padding(panels[2], drawn)
    for axes in panels:
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, _ = panels[0].get_legend_handles_labels()
    names = [f"{name}: {len(split.sentiments):,} segments" for name, split in drawn.items()]
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    save_figure(figure, path)


def _draw_lengths(axes: Axes, splits: Mapping[str, SplitSummary]) -> None:
    """Draw the lengths up to the 99th percentile: a few segments are many times longer."""
    axes.set(xlabel="length (s)", ylabel="share of segments", title="Length of segments")
    seconds = np.concatenate([split.seconds for split in splits.values()])
    if not len(seconds):
        axes.text(0.5, 0.5, "no times known", ha="center", transform=axes.transAxes)
        return
    edges = np.linspace(0, np.percentile(seconds, 99), 21)
    for name, split in splits.items():
        if len(split.seconds):
            shares = np.histogram(split.seconds, edges)[0] / len(split.seconds)
            label = f"{name}: median {np.median(split.seconds):.1f} s"
            axes.stairs(shares, edges, color=_COLORS[name], linewidth=1.6, label=label)
    axes.set_xlabel(f"length (s); the longest 1 %, up to {seconds.max():.0f} s, left out")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False)


def _draw_padding(axes: Axes, splits: Mapping[str, SplitSummary]) -> None:
    shares = {
        name: {kind: array.padding for kind, array in split.arrays.items() if kind != "label"}
        for name, split in splits.items()
    }
    for bars in _draw_bars(axes, shares):
        axes.bar_label(bars, [f"{100 * bar.get_height():.0f} %" for bar in bars], fontsize=8)
    axes.set(
        ylim=(0, 1.05), ylabel="share of rows", title="Padding: zero rows in front of a segment"
    )


def _draw_bars(axes: Axes, heights: Mapping[str, Mapping[str, float]]) -> list[BarContainer]:
    """Draw groups of bars side by side; `heights` are by split, then by group."""
    groups = list(dict.fromkeys(group for bars in heights.values() for group in bars))
    axes.set_xticks(range(len(groups)), groups)
    width = 0.8 / len(heights)
    drawn = []
    for number, (name, bars) in enumerate(heights.items()):
        middle = (number - (len(heights) - 1) / 2) * width
        positions = [groups.index(group) + middle for group in bars]
        values = list(bars.values())
        drawn.append(axes.bar(positions, values, width, color=_COLORS[name], label=name))
    return drawn
