"""The dashboard in a real browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Give a headless Chromium; skip the test where there is none, but in CI fail it."""
    webdriver = pytest.importorskip("selenium.webdriver")
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(found.values()):
        missing = "no chromium and chromedriver here (Debian: chromium-driver)"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(found["chromedriver"]))
    try:
        driver.implicitly_wait(0)
        yield driver
    finally:
        driver.quit()


def as_new(driver: Any) -> None:
    """Have a browser show nothing, at its size. What a page has stored is its own: each has a port of its own."""
    driver.get("about:blank")
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    driver.set_window_size(1400, 1200)
    driver.get_log("browser")  # what is read is gone


@contextlib.contextmanager
def dashboard(*words: str) -> Iterator[str]:
    """Run `fast-router dashboard` with these arguments, and give the address that it prints."""
    with subprocess.Popen(
        [sys.executable, "-m", "fast_router.cli", "dashboard", "--port", "0", *words], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            yield child.stdout.readline().strip()
        finally:
            child.terminate()


class Page:
    """What a browser shows.

    Args:
        driver: The browser.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def all(self, css: str) -> list[Any]:
        """Give the elements that a selector finds."""
        found: list[Any] = self.driver.find_elements("css selector", css)
        return found

    def text(self, css: str) -> str:
        """Give their text."""
        # One question to the page: its elements may be replaced between two.
        found: str = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText).join('\\n')", css
        )
        return found

    def until(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait for a condition and give its value."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, self.text("body")
            time.sleep(0.05)
        return found

    def press(self, css: str) -> None:
        """Click on what a selector finds."""
        self.until(
            lambda: self.driver.execute_script("document.querySelector(arguments[0])?.click(); return true", css)
        )

    def severe(self) -> list[Any]:
        """Give the errors that the browser's console has."""
        return [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
