"""Drawing into files, without a screen."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws to files; needs no screen

from matplotlib import pyplot
from matplotlib.figure import Figure

from system.files import atomic_write


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` to `path`, whole or not at all, and free its memory."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
