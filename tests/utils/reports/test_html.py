"""The report page: escaped, alone, small, and readable in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib import pyplot

from utils.reports.html import Picture, Section, Table, write_report

HOSTILE = (
    "<script>alert('é')</script>\"'&{{ 7 * 7 }}{% raw %}<img src=http://a.b/c onerror=x>\ud800"
)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
EXTERNAL = re.compile(r"(?:src|href|action|data)\s*=\s*[\"'](?!data:image/png;base64,|#s)")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    pyplot.imsave(path, np.random.default_rng(0).random((300, 1200)))
    return Picture(path, "A picture")


@pytest.fixture
def page(tmp_path, picture):
    """Return a page with text without spaces, a wide table and a wide picture."""
    rows = [["x" * 200, *range(30)], [HOSTILE, "word " * 100]]
    parts = ["no-space-" * 100, Table(["name", *map(str, range(30))], rows), picture]
    sections = [Section("One " + HOSTILE, parts), Section("Two", [Table(["a"], [])])]
    write_report(tmp_path / "report.html", f"Report {HOSTILE}", sections)
    return tmp_path / "report.html"


def test_strange_text_is_escaped_wherever_it_stands(tmp_path, picture):
    sections = [
        Section(HOSTILE, [HOSTILE, Table([HOSTILE], [[HOSTILE, HOSTILE]])]),
        Section("", [Picture(picture.path, HOSTILE)]),
    ]
    write_report(tmp_path / "report.html", HOSTILE, sections)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img src=http" not in text
    shown = HOSTILE.replace("\ud800", "?")
    assert html.unescape(text).count(shown) == 9  # title twice, link, h2, p, th, row, cell, alt


def test_nothing_is_fetched_from_elsewhere(page):
    text = page.read_text(encoding="utf-8")
    assert EXTERNAL.findall('<a href="http://a">') and EXTERNAL.findall("<img src='x.png'>")
    assert EXTERNAL.findall(text) == []
    assert not re.search(r"url\(|@import|<link|<script|<iframe", text)
    assert "default-src 'none'; img-src data:" in text


def test_a_sentence_of_megabytes_leaves_it_small(tmp_path):
    rows = [["video " * 10**5, "x" * 10**6]] * 20
    write_report(tmp_path / "report.html", "t" * 10**6, [Section("s", [Table(["a", "b"], rows)])])
    assert (tmp_path / "report.html").stat().st_size < 50_000


@pytest.mark.skipif(BROWSER is None, reason="needs chromium on PATH")
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_all_of_it_without_a_complaint(page, tmp_path, width):
    found, log = in_browser(page, tmp_path, width)
    assert found["pictures"] == [True]
    assert found["sections"] == 2
    assert found["overflow"] <= 0
    assert "CONSOLE" not in log


@pytest.mark.skipif(BROWSER is None, reason="needs chromium on PATH")
def test_the_browser_would_tell(tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<section><div style='width:900px'>x</div><img src='data:image/png;base64,xx'>"
        "<script>undefined_name()</script></section>"
    )
    found, log = in_browser(broken, tmp_path, 400)
    assert found["pictures"] == [False]
    assert found["overflow"] > 0
    assert "CONSOLE" in log


def in_browser(page, folder, width):
    """Return what a frame of that width measures of the page, and what the browser logged."""
    frame = html.escape(page.read_text(encoding="utf-8"))
    measuring = folder / "measuring.html"
    measuring.write_text(
        f'<iframe width={width} height=900 style="border:0" srcdoc="{frame}"></iframe>'
        """<pre></pre><script>onload = () => {
          const inner = document.querySelector("iframe").contentDocument
          document.querySelector("pre").textContent = JSON.stringify({
            overflow: inner.documentElement.scrollWidth - inner.documentElement.clientWidth,
            pictures: [...inner.images].map(x => x.complete && x.naturalWidth > 0),
            sections: inner.querySelectorAll("section").length})}</script>""",
        encoding="utf-8",
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [BROWSER, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", measuring],
        capture_output=True,
        text=True,
        timeout=120,
    )
    (result,) = re.findall("<pre>(.*)</pre>", done.stdout)
    return json.loads(html.unescape(result)), done.stderr
