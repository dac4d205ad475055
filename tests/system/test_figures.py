"""Pictures in files."""

from __future__ import annotations

import sys

import matplotlib
import pytest

import main_msaf
from system.figures import also_write_pdfs, pyplot, save_figure
from tests.utils.studies.test_table import write_run


def draw(path):
    figure, axes = pyplot.subplots()
    axes.plot([1, 2])
    save_figure(figure, path)


@pytest.mark.parametrize("with_pdfs", [False, True])
def test_a_picture_is_a_png_and_a_pdf_beside_it_where_that_is_asked(tmp_path, with_pdfs):
    with matplotlib.rc_context():
        if with_pdfs:
            also_write_pdfs()
        draw(tmp_path / "a.png")
    kinds = {path.name: path.read_bytes()[:4] for path in tmp_path.iterdir()}
    assert kinds == {"a.png": b"\x89PNG"} | ({"a.pdf": b"%PDF"} if with_pdfs else {})


def test_the_option_asks_for_pdfs(tmp_path, monkeypatch):
    write_run(tmp_path / "run", 0.1)
    words = ["--table", tmp_path / "run", "--resultdir", tmp_path / "out", "--pdf"]
    monkeypatch.setattr(sys, "argv", ["main_msaf.py", *map(str, words)])
    with matplotlib.rc_context():
        main_msaf.main()
    assert (tmp_path / "out" / "comparison.pdf").is_file()
    assert (tmp_path / "out" / "comparison.png").is_file()


def test_lines_differ_in_more_than_colour():
    figure, axes = pyplot.subplots()
    markers = [axes.plot([1, 2])[0].get_marker() for _ in range(7)]
    pyplot.close(figure)
    assert len(set(markers)) == 7
