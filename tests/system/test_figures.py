"""Pictures in files."""

from __future__ import annotations

import matplotlib
import pytest

from system.figures import also_write_pdfs, pyplot, save_figure


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


def test_lines_differ_in_more_than_colour():
    figure, axes = pyplot.subplots()
    markers = [axes.plot([1, 2])[0].get_marker() for _ in range(7)]
    pyplot.close(figure)
    assert len(set(markers)) == 7
