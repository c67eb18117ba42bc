"""Debian's Chromium by Playwright, for tests of what people see; they are skipped without it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# Nothing of the browser's own is fetched while a test looks.
_QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window; skips the test if there is none."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if browser is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as program:
        started = program.chromium.launch(executable_path=browser, args=list(_QUIET))
        yield started
        started.close()


def window(browser: Any, width: int, height: int) -> Any:
    """An empty page in a window of this size; a small one is a phone's."""
    phone = width < 500
    size = {"width": width, "height": height}
    return browser.new_context(viewport=size, has_touch=phone, is_mobile=phone).new_page()
