"""The page in this process, in front of a stand-in for the API, and one browser for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.operator.api.stand_in import Backend, operator_backend
from tests.support.authority import Authority
from tests.web.browser import chromium, forget
from tests.web.site import Site, cookie_of, served


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA that the client is told to trust."""
    return Authority(tmp_path_factory.mktemp("web") / "authority")


@pytest.fixture(scope="module")
def backend(authority: Authority) -> Iterator[Backend]:
    """The contract, behind a door that checks signatures."""
    with operator_backend(authority) as running:
        yield running


@pytest.fixture(scope="module")
def site(backend: Backend, authority: Authority) -> Iterator[Site]:
    """The page, served."""
    with served(backend, authority) as running:
        yield running


@pytest.fixture(scope="session")
def one_chrome() -> Iterator[Chrome]:
    """Starting one takes longer than a test."""
    with chromium() as running:
        yield running


@pytest.fixture
def chrome(one_chrome: Chrome) -> Chrome:
    """A browser as good as new."""
    forget(one_chrome)
    return one_chrome


@pytest.fixture
def entered(chrome: Chrome, site: Site) -> Chrome:
    """The browser with the cookie that lets it in; it has not loaded a page yet."""
    site.seen.known = {}
    site.backend.replies.clear()
    name, _, value = cookie_of(site).partition("=")
    chrome.execute_cdp_cmd("Network.setCookie", {"name": name, "value": value, "url": site.base})
    return chrome


@pytest.fixture
def browser(entered: Chrome, site: Site) -> Chrome:
    """The browser at the list of Things."""
    entered.get(site.base)
    return entered
