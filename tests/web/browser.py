"""A headless Chromium, and what the tests ask it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

_DRIVER = "/usr/bin/chromedriver"


@contextmanager
def chromium(*, language: str = "en", width: int = 1280, height: int = 900) -> Iterator[Chrome]:
    """Yield a browser that is gone at the end.

    Args:
        language: the one that its user has chosen.
        width, height: of its window, in CSS pixels.
    """
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        # Root needs no-sandbox, and containers have little shared memory. It shows our own pages alone.
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-extensions"),
        # Pages without animations need no process for graphics: a sixth of a browser's time.
        "--in-process-gpu",
        *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--window-size={width},{height}", f"--accept-lang={language}", "--hide-scrollbars"),
    ):
        options.add_argument(argument)
    browser = Chrome(options=options, service=Service(_DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def forget(browser: Chrome) -> None:
    """Make a browser as it was: no cookies, its own width, and the system's usual colours."""
    browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    prefer(browser)


def resize(browser: Chrome, width: int, height: int = 900) -> None:
    """Give the page a size in CSS pixels, also below the narrowest window."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(browser: Chrome, **features: str) -> None:
    """Have media features: ``prefer(browser, prefers_color_scheme="dark")``; none resets them."""
    wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})


def picture(browser: Chrome, file: Path, *, whole: bool = True) -> None:
    """Save the page as PNG, the whole of it or only what its window shows."""
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
    file.write_bytes(base64.b64decode(shot["data"]))
