"""The system's Chromium, without a window."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Playwright's browser; the test is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium here (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # without a sandbox, which root has none of; the software renderer, as there may be no GPU
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--use-angle=swiftshader"])
        yield opened
        opened.close()
