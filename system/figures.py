"""Drawing into files, without a screen."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

if "MPLCONFIGDIR" not in os.environ:
    # Where the home cannot be written, matplotlib does without, and would tell it in long lines.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        Path.home()  # where matplotlib keeps its settings
    except RuntimeError:
        _folder = os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)

import matplotlib

matplotlib.use("Agg")  # draws to files; needs no screen

from cycler import cycler
from matplotlib import pyplot
from matplotlib.figure import Figure

from system.files import atomic_write

__all__ = ["also_write_pdfs", "pyplot", "save_figure"]

matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is no formula
# Markers distinguish lines without colours too, in grey and for readers who see no red or green.
# Source of the colours: Okabe and Ito, Color Universal Design, 2008.
matplotlib.rcParams["axes.prop_cycle"] = cycler(
    color=["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"],
    marker=["o", "s", "^", "D", "v", "X", "P"],
)


def also_write_pdfs() -> None:
    """From now on, let `save_figure` write each picture as a PDF too, beside the PNG."""
    matplotlib.rcParams["savefig.format"] = "pdf"


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` to `path`, whole or not at all, and free its memory."""
    suffixes = [path.suffix] + [".pdf"] * (matplotlib.rcParams["savefig.format"] == "pdf")
    for suffix in suffixes:
        with atomic_write(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
