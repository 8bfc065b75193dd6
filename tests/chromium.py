"""A real headless Chromium, for tests that look at pages as people do; without one they are skipped."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PHONE = {"width": 390, "height": 844}

needs_chromium = pytest.mark.skipif(EXECUTABLE is None, reason="there is no Chromium on this machine")


@contextmanager
def opened() -> Iterator["playwright.Browser"]:
    """A browser that is closed at the end."""
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=EXECUTABLE, args=FLAGS)
        yield chromium
        chromium.close()
