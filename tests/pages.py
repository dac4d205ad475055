"""Checks HTML reports with a strict parser and in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import html5lib
import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium on PATH")
MAX_BYTES = 2_000_000
_URL_ATTRIBUTES = ("src", "srcset", "href", "action", "data", "poster", "background", "style")
_ALLOWED = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]*|#s\d+|--share: [\d.]+%")
_PRINT_WIDTH = 1030  # pixels of A4 in landscape format
# A hostile name or sentence from a file.
HOSTILE = "<script>alert('é')</script>\"'&{{ 7 * 7 }}{% raw %}<img src=http://a.b/c onerror=x>"


def parse(path: Path) -> Element:
    """Return the tree of a page; raises ParseError for any mistake in its HTML."""
    text = path.read_text(encoding="utf-8")
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def texts(tree: Element, tag: str) -> list[str]:
    return ["".join(element.itertext()) for element in tree.iter(tag)]


def foreign_parts(tree: Element) -> list[str]:
    """Return everything that a page would fetch or run, and tags that come from unescaped text."""
    parts = [element.tag for element in tree.iter() if element.tag not in _TAGS]
    for element in tree.iter():
        for name, value in element.attrib.items():
            is_foreign = name in _URL_ATTRIBUTES and not _ALLOWED.fullmatch(value)
            if is_foreign or name.startswith("on"):
                parts.append(f"{name}={value}")
    return parts + re.findall(r"url\(|@import", "".join(texts(tree, "style")))


_TAGS = set(
    "html head meta title style body h1 h2 nav a section p div table thead tbody tr th td strong "
    "img".split()
)


def check_page(path: Path) -> Element:
    """Check what all reports must fulfil; returns the report's tree."""
    tree = parse(path)
    assert foreign_parts(tree) == []
    assert path.stat().st_size < MAX_BYTES
    policies = [element.get("content", "") for element in tree.iter("meta")]
    assert any("default-src 'none'; img-src data:" in policy for policy in policies)
    ids = [element.get("id") for element in tree.iter("h2")]
    assert [element.get("href") for element in tree.iter("a")] == [f"#{id_}" for id_ in ids]
    return tree


class Look(NamedTuple):
    """How a browser shows a page at one width, in one colour scheme."""

    complaints: list[str]  # console messages, errors, requests other than for the page
    pictures: list[bool]  # whether each is shown
    overflow: int  # pixels to the right of the screen
    background: str


def look_at(paths: Iterable[Path]) -> Iterator[tuple[dict[tuple[int, str], Look], Look]]:
    """Yield how each page looks by width and colour scheme, and how it looks printed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p, p.chromium.launch(executable_path=BROWSER) as browser:
        for path in paths:
            with browser.new_page() as page:
                yield _looks(page, path)


def _looks(page, path):
    complaints = []
    page.on("console", lambda message: complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url[:99]}"))
    page.on("request", lambda request: complaints.extend(_elsewhere(request.url, path)))
    page.goto(path.resolve().as_uri(), wait_until="load")
    looks = {}
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            looks[width, scheme] = Look(complaints, **_measure(page))
    page.set_viewport_size({"width": _PRINT_WIDTH, "height": 700})
    page.emulate_media(media="print", color_scheme="dark")
    printed = Look(complaints, **_measure(page))
    assert page.pdf().startswith(b"%PDF")
    return looks, printed


def _measure(page):
    return page.evaluate("""() => ({
        pictures: [...document.images].map(img => img.complete && img.naturalWidth > 0),
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        background: getComputedStyle(document.body).backgroundColor})""")


def _elsewhere(url, path):
    is_own = url == path.resolve().as_uri() or url.startswith("data:image/png;base64,")
    return [] if is_own else [f"request: {url[:99]}"]


def check_looks(pictures: Mapping[Path, int]) -> None:
    """Check how a browser shows pages; `pictures` has each page's number of pictures."""
    for (path, count), (looks, printed) in zip(pictures.items(), look_at(pictures), strict=True):
        for screen, look in {**looks, "printed": printed}.items():
            assert look.complaints == [], (path, screen)
            assert look.pictures == [True] * count, (path, screen)
            assert look.overflow <= 0, (path, screen)
        for width in (400, 1400):
            assert looks[width, "light"].background == "rgb(255, 255, 255)"
            assert looks[width, "dark"].background == "rgb(22, 24, 28)"
        assert printed.background == "rgb(255, 255, 255)"  # also in the dark colour scheme
