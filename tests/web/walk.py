"""What the tests do in the browser, and read there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

_CONTROLS = "main button, main a, nav a, main summary"


def one(browser: Chrome, selector: str) -> WebElement:
    """Return the one element that a CSS selector finds."""
    (found,) = browser.find_elements(By.CSS_SELECTOR, selector)
    return found


def texts(browser: Chrome, selector: str) -> list[str]:
    """Return the visible text of all elements that a CSS selector finds."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(one => one.innerText.trim())", selector
    )
    return found


@contextmanager
def leaving(browser: Chrome) -> Iterator[None]:
    """Wait at the end of the block for the page that it leads to."""
    browser.execute_script("window.isLeft = true")
    yield
    is_there = "return !window.isLeft && document.readyState === 'complete'"
    WebDriverWait(browser, 30, poll_frequency=0.02).until(lambda _: browser.execute_script(is_there))


def press(browser: Chrome, name: str) -> None:
    """Press the one button, or follow the one link, that has a name, and wait for the page that it leads to."""
    button = named(browser, name)
    with leaving(browser):
        button.click()


def named(browser: Chrome, name: str) -> WebElement:
    """Return the one button or link that is shown and has a name."""
    (button,) = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(one => one.checkVisibility()"
        " && (one.ariaLabel ?? one.innerText) === arguments[1])",
        _CONTROLS,
        name,
    )
    assert isinstance(button, WebElement)
    return button


def heading(browser: Chrome) -> str:
    """Return the page's heading."""
    return one(browser, "h1").text


def problem(browser: Chrome) -> str:
    """Return the error that the page shows, in one line."""
    return " ".join(one(browser, "[role=alert]").text.split())


def row(browser: Chrome, name: str) -> list[str]:
    """Return the cells of the row of a table that has a name, without the one to select it."""
    (found,) = browser.execute_script(
        "return [...document.querySelectorAll('tbody tr')]"
        ".filter(one => one.querySelector('th').innerText === arguments[0])"
        ".map(one => [...one.querySelectorAll('th, td:not(.select)')].map(cell => cell.innerText))",
        name,
    )
    cells: list[str] = found
    return cells
