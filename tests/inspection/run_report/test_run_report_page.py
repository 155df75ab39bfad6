"""The page of a run in a browser: numbers of the files, pictures, folding, lightbox, no request."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrcnn_zoo.inspection.run_report.page import write_run_report
from support.browser import DESKTOP, PHONE, Browser, browser, open_page
from support.run_folders import RESULTS, write_run, write_squares

ROWS = """tables => tables.flatMap(table => Array.from(table.querySelectorAll("tbody tr")).map(
    row => Array.from(row.cells).map(cell => cell.textContent)))"""
FUNNEL_HINT = "EVAL.FUNNEL"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_squares(folder / "data")
    run = write_run(folder / "run", folder / "data")
    times = {"device": "cpu", "num_images": 3, "seconds_per_image": {"backbone": 0.03, "box head": 0.01}}
    (run / "inference" / "stage_times.json").write_text(json.dumps(times))
    return write_run_report(run)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


def test_numbers_are_those_of_the_files(chromium: Browser, page: Path) -> None:
    opened = open_page(chromium, page, size=DESKTOP)
    rows = opened.page.eval_on_selector_all("table", ROWS)
    for name in ("AP", "AP50", "AR100"):
        assert [name, f"{RESULTS['bbox'][name]:.2f}", f"{RESULTS['segm'][name]:.2f}"] in rows
    assert ["b", "2", "50.00", "47.50"] in rows  # objects and AP of a class
    assert ["backbone", "30.0 ms", "75%"] in rows
    assert ["SOLVER.MAX_ITER", "40", "40000"] in rows
    tiles = [text.replace("\n", " ") for text in opened.page.locator(".tiles div").all_inner_texts()]
    assert tiles[:3] == ["61.2 box AP", "58.8 mask AP", "60.0 best segm/AP, after 20 iterations"]
    facts = opened.page.inner_text(".facts")
    for text in ("NVIDIA X", "0123456789 on trunk, with uncommitted changes", "40 of 40", "17", "mrcnn_zoo 0.0.9"):
        assert text in facts
    assert opened.page.inner_text("h1") == "squares_config"
    assert "SOLVER.BASE_LR = 0.1 since resume" in opened.page.inner_text("body")
    assert FUNNEL_HINT in opened.page.inner_text("body")


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_pictures_are_shown_and_opened(chromium: Browser, page: Path, size: tuple[int, int]) -> None:
    opened = open_page(chromium, page, size=size)
    widths = opened.page.evaluate("Array.from(document.images).filter(i => i.src).map(i => i.naturalWidth)")
    assert len(widths) > 12
    assert min(widths) > 100
    picture = opened.page.locator(".card img").first
    picture.click()
    assert opened.page.locator("dialog[open] img").get_attribute("src") == picture.get_attribute("src")
    opened.page.locator("dialog img").click()
    assert opened.page.locator("dialog[open]").count() == 0
    folded = opened.page.locator("details", has_text="Changed keys") if size == PHONE else None
    if folded is not None and folded.count():
        folded.locator("summary").click()
        assert folded.locator("table").is_visible()
    opened.check()


def test_links_lead_to_sections(chromium: Browser, page: Path) -> None:
    opened = open_page(chromium, page)
    targets = opened.page.eval_on_selector_all("nav a", "links => links.map(link => link.getAttribute('href'))")
    assert {"#results", "#curves", "#precision", "#images", "#labels", "#time", "#config"} <= set(targets)
    assert all(opened.page.locator(target).count() == 1 for target in targets)
