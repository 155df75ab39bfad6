"""Pages in a browser: script with data, pictures, no request."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mrcnn_zoo.inspection.html_page import Cell, Table, html_list, html_page, html_table, is_own_page, picture_uri
from support.browser import PHONE, Browser, browser, open_page

SCRIPT = """
const data = JSON.parse(document.getElementById("page-data").textContent);
document.getElementById("target").textContent = data.text;
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


def test_data_pictures_and_tables(chromium: Browser, tmp_path: Path) -> None:
    text = "</script><b>&amp; \u00fc"
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    table = Table("Wide", tuple(f"column {n}" for n in range(30)), (tuple(Cell(str(n)) for n in range(30)),))
    body = [
        '<p id="target"></p>',
        html_list(["<i>"]),
        html_table(table),
        *(f'<img class="{lossless}" src="{picture_uri(picture, lossless=lossless)}">' for lossless in (False, True)),
    ]
    path = tmp_path / "page.html"
    path.write_text(html_page("<title>", body, script=SCRIPT, data={"text": text}), encoding="utf-8")
    opened = open_page(chromium, path, size=PHONE)
    opened.check()
    assert opened.page.title() == "<title>"
    assert opened.page.text_content("#target") == text
    assert opened.page.text_content("li") == "<i>"
    assert opened.page.evaluate("Array.from(document.images).map(i => i.naturalWidth)") == [30, 30]


def test_own_pages_are_recognised(tmp_path: Path) -> None:
    own, other = tmp_path / "own.html", tmp_path / "other.html"
    own.write_text(html_page("x", []))
    other.write_text('<!DOCTYPE html>\n<html lang="en">\n<head>\n<title>x</title>')
    assert is_own_page(own)
    assert not is_own_page(other)
    assert not is_own_page(tmp_path)


def test_requests_and_errors_are_seen(chromium: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(html_page("x", ['<img src="other.png"><p style="width: 3000px">x</p>'], script="missing();"))
    opened = open_page(chromium, path)
    assert any("missing" in error for error in opened.errors)
    assert any("other.png" in error for error in opened.errors)  # forbidden by the policy of the page
    with pytest.raises(AssertionError):
        opened.check()
