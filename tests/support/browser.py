"""HTML pages in a headless Chromium, with what goes wrong in them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
else:
    Browser = Any

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = (1280, 900), (390, 844)  # width, height in CSS pixels


@dataclass
class OpenPage:
    """A page, with the errors of its scripts and its requests for anything but the file itself."""

    page: "Page"
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def check(self) -> None:
        """No error, no request, and nothing wider than the window."""
        assert self.errors == []
        assert self.requests == []
        overflow = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0


@contextmanager
def browser() -> "Iterator[Browser]":
    """A headless Chromium; the test is skipped where none is installed."""
    found = [path for path in map(shutil.which, CHROMIUMS) if path]
    if not found:
        pytest.skip(f"none of {', '.join(CHROMIUMS)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found[0], args=list(OPTIONS))
        yield chromium
        chromium.close()


def open_page(chromium: "Browser", path: Path, *, size: tuple[int, int] = DESKTOP) -> OpenPage:
    """Open an HTML file.

    Args:
        chromium: see `browser`.
        path: of the file.
        size: width and height of the window.
    """
    opened = OpenPage(chromium.new_page(viewport={"width": size[0], "height": size[1]}))
    address = path.resolve().as_uri()
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.on("console", lambda text: opened.errors.append(text.text) if text.type == "error" else None)
    is_own = ("data:", "blob:", address)
    opened.page.on("request", lambda sent: None if sent.url.startswith(is_own) else opened.requests.append(sent.url))
    opened.page.goto(address)
    return opened
