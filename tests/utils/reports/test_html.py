"""The report page: escaped, self-contained, small, and readable in a real browser."""

from __future__ import annotations

import numpy as np
import pytest
from html5lib.html5parser import ParseError
from matplotlib import pyplot

from tests.pages import (
    HOSTILE,
    check_looks,
    check_page,
    foreign_parts,
    look_at,
    needs_browser,
    parse,
    texts,
)
from utils.reports.html import (
    Cell,
    Picture,
    Section,
    Table,
    warning_if_unwritten,
    write_report,
)

CONTROL = "\ud800 \x00\x1b[31m\x85\ufffe\u202e\r\n\t-"  # a lone surrogate, and non-characters


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    pyplot.imsave(path, np.random.default_rng(0).random((30, 120)))
    return Picture(path, "A picture")


@pytest.fixture
def page(tmp_path, picture):
    """Return a page with text without spaces, a wide table and wide pictures."""
    rows = [["x" * 200, *range(30)], [HOSTILE, "word " * 100], [Cell("b", True), Cell(1, share=1)]]
    many = Table(["name", *(f"a_long_name_of_column={number}" for number in range(30))], rows)
    parts = ["NoSpace" * 100, many, picture, Picture(picture.path, "Wide", is_wide=True)]
    sections = [Section("One " + HOSTILE, parts), Section("Two", [Table(["a"], [])])]
    write_report(tmp_path / "report.html", f"Report {HOSTILE}", sections)
    return tmp_path / "report.html"


@pytest.mark.parametrize("strange", [HOSTILE, CONTROL, HOSTILE + CONTROL], ids=range(3))
def test_strange_text_is_escaped_everywhere(tmp_path, picture, strange):
    cells = [strange, strange, Cell(strange), Cell(strange, is_best=True), Cell(strange, share=0.5)]
    sections = [
        Section(strange, [strange, Table([strange], [cells])]),
        Section("", [Picture(picture.path, strange), Picture(picture.path, strange, is_wide=True)]),
    ]
    write_report(tmp_path / "report.html", strange, sections)
    tree = check_page(tmp_path / "report.html")
    shown = strange.replace(CONTROL, r"\ud800 \x00\x1b[31m \ufffe\u202e -")
    shown_texts = [texts(tree, tag) for tag in ("title", "h1", "h2", "a", "p", "thead", "tbody")]
    shown_texts = [text.strip() for of_tag in shown_texts for text in of_tag]
    assert shown_texts == [*[shown] * 3, "", shown, "", shown, shown, shown * 5]
    assert [element.get("alt") for element in tree.iter("img")] == [shown, shown]


def test_cells_are_cut_but_paragraphs_are_whole(tmp_path):
    words = " ".join(map(str, range(200)))
    sections = [Section("One", [words, Table(["a"], [[words]])])]
    write_report(tmp_path / "report.html", "Report", sections)
    tree = check_page(tmp_path / "report.html")
    assert texts(tree, "p") == [words]
    assert texts(tree, "th")[1] == f"{words[:300]}…"


def test_nothing_is_fetched_from_elsewhere(page, tmp_path):
    check_page(page)
    for part in (
        "<a href='http://a'>a</a>",
        "<img src='x.png' alt=''>",
        "<p style='background: url(x)'>a</p>",
        "<script>a</script>",
        "<p onclick='a'>a</p>",
        "<style>@import 'a'</style>",
    ):
        other = tmp_path / "other.html"
        other.write_text(page.read_text(encoding="utf-8").replace("<nav>", f"{part}<nav>"))
        assert foreign_parts(parse(other))


@pytest.mark.parametrize("mistake", ["<b>", "</p>", "&nosuch;", "<p class=a class=b></p>"])
def test_the_parser_finds_mistakes(page, mistake):
    page.write_text(page.read_text(encoding="utf-8").replace("<nav>", f"{mistake}<nav>"))
    with pytest.raises(ParseError):
        parse(page)


def test_cells_are_highlighted(page):
    tree = check_page(page)
    assert texts(tree, "strong") == ["b"]
    (bar,) = [cell for cell in tree.iter("td") if cell.get("class") == "bar"]
    assert (bar.text, bar.get("style")) == ("1", "--share: 100.0%")


def test_sentences_of_megabytes_are_cut(tmp_path):
    rows = [["video " * 10**5, "x" * 10**6]] * 20
    write_report(tmp_path / "report.html", "t" * 10**6, [Section("s", [Table(["a", "b"], rows)])])
    assert (tmp_path / "report.html").stat().st_size < 50_000


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("a\nb"), MemoryError()])
def test_a_report_that_cannot_be_written_is_a_warning_of_one_line(tmp_path, capsys, error):
    with warning_if_unwritten(tmp_path / "report.html"):
        raise error
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'report.html'} is not written ({type(error).__name__}" in line


def test_an_interrupt_is_not_turned_into_a_warning(tmp_path):
    with pytest.raises(KeyboardInterrupt), warning_if_unwritten(tmp_path / "report.html"):
        raise KeyboardInterrupt


@needs_browser
def test_a_browser_shows_all_of_it_without_a_complaint(page):
    check_looks({page: 2})


@needs_browser
def test_the_browser_finds_mistakes(tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<div style='width:2000px'>x</div><img src='data:image/png;base64,xx'>"
        "<img src='none.png'><script>undefined_name()</script>"
    )
    ((looks, printed),) = look_at([broken])
    for look in (*looks.values(), printed):
        assert look.pictures == [False, False]
        assert look.overflow > 0
        for complaint in ("error: ", "request: ", "failed: "):
            assert any(text.startswith(complaint) for text in look.complaints)
