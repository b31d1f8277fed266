"""A browser for tests: Playwright from PyPI with a Chromium that is there; without them these tests are skipped.

Where TINYDIFF_NEEDS_BROWSER is set, as in CI, they fail instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 30_000  # milliseconds, on a machine that has much else to do
LAPTOP, PHONE = {"width": 1024, "height": 768}, {"width": 390, "height": 844}


def _missing(what: str) -> None:
    if os.environ.get("TINYDIFF_NEEDS_BROWSER"):
        pytest.fail(f"TINYDIFF_NEEDS_BROWSER is set, but {what}")
    pytest.skip(f"{what}: the page is not tried in a browser")


@contextmanager
def launched() -> Iterator[Any]:
    """A headless Chromium."""
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        _missing("Playwright is missing (pip install 'tinydiff[browser]')")
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)), playwright.chromium.executable_path)
        if not Path(path).exists():
            _missing("there is no Chromium (apt install chromium, or playwright install chromium)")
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb"]
        )
        expect.set_options(timeout=PATIENCE)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, address: str, ours: str = "file:", **options: Any) -> Iterator[Any]:
    """A page that asks for nothing that does not begin with `ours`, and has nothing to complain about."""
    context = browser.new_context(**({"viewport": LAPTOP} | options))
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("request", lambda request: None if request.url.startswith((ours, "data:")) else wrong.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    yield page
    context.close()
    assert wrong == []


def address_of(path: Path) -> str:
    """A file as a browser opens it."""
    return path.resolve().as_uri()


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, style, datalist, option, :disabled")) continue;
    let back = [255, 255, 255, 255];
    for (let box = element; box; box = box.parentElement) {
      const colour = rgba(getComputedStyle(box).backgroundColor);
      if (colour[3] === 255) { back = colour; break; }
    }
    const [a, b] = [light(rgba(getComputedStyle(element).color)), light(back)].sort((x, y) => y - x);
    const what = `${element.tagName}.${element.className}#${element.id} ${node.textContent.trim().slice(0, 30)}`;
    found.push([(a + 0.05) / (b + 0.05), what]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""
"""Contrast of every text that is seen with what is behind it (WCAG 2.2), the least first."""


def check_looks(page: Any) -> None:
    """Text that can be read, and nothing to be scrolled sideways."""
    least, where = page.evaluate(CONTRAST)[0]
    assert least >= 4.5, where
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
