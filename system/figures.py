"""Drawing into files, without a screen."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

if "MPLCONFIGDIR" not in os.environ:
    try:
        Path.home()  # where matplotlib keeps its settings
    except RuntimeError:
        _folder = os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)

import matplotlib

matplotlib.use("Agg")  # draws to files; needs no screen

from matplotlib import pyplot
from matplotlib.figure import Figure

from system.files import atomic_write

__all__ = ["pyplot", "save_figure"]

matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is no formula


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` to `path`, whole or not at all, and free its memory."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
