"""Robustness as a picture: a panel for each modality and kind of perturbation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from system.console import printable
from system.figures import pyplot, save_figure
from utils.reports.perturbation import LEVELS, MODALITIES, UNDISTURBED, Perturbation, perturbations

_TITLES = {
    "missing_random": ("missing, at random", "% of the frames"),
    "missing_block": ("missing, in a block", "% of the frames"),
    "noise": ("noise", "signal to noise (dB)"),
    "shift": ("shifted against text", "seconds later"),
}


def plot_robustness(
    path: Path, curves: Mapping[str, Mapping[Perturbation, float]], measure: str
) -> None:
    """Draw the values of `measure` by level, a line for each name in `curves`.

    Dotted lines are the values on undisturbed data.
    """
    figure, panels = pyplot.subplots(
        len(MODALITIES),
        len(LEVELS),
        figsize=(11, 7),
        layout="constrained",
        sharey=True,
        sharex="col",
    )
    measured = perturbations()
    for row, modality in enumerate(MODALITIES):
        for column, (kind, (title, unit)) in enumerate(_TITLES.items()):
            axes = panels[row, column]
            panel = [each for each in measured if (each.modality, each.kind) == (modality, kind)]
            if not panel:
                axes.axis("off")
                continue
            for number, values in enumerate(curves.values()):
                levels = [each.level for each in panel]
                axes.plot(levels, [values[each] for each in panel], markersize=4)
                axes.axhline(values[UNDISTURBED], color=f"C{number}", linestyle=":", linewidth=1)
            axes.set_title(f"{modality} {title}", fontsize=10)
            axes.set_xlabel(unit)
            axes.tick_params(labelbottom=True)
            axes.grid(alpha=0.3)
        panels[row, 0].set_ylabel(measure)
    panels[0, list(LEVELS).index("noise")].invert_xaxis()  # more noise to the right
    handles = panels[0, 0].get_lines()[::2]
    figure.legend(handles, map(printable, curves), loc="outside upper center", frameon=False)
    save_figure(figure, path)
