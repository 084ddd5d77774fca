"""The page is for everyone: screen readers, keyboards, narrow screens, dark rooms, and forced colours."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from hsm_enroll.operator.last_seen import Sighting, Unknown
from tests.operator.api.stand_in import Backend, problem
from tests.web import walk
from tests.web.browser import forget, prefer, resize
from tests.web.site import Site, invite

_LONGEST = "x" * 64


@pytest.fixture(scope="module")
def backend(backend: Backend) -> Backend:
    """A ledger with a Thing of each kind, more than a page of them, and an invite."""
    for number in range(60):
        backend.add_thing(f"gateway-{number:02}", ("claimed", "issued", "revoked")[number % 3])
    backend.things["gateway-01"] |= {"attested": True, "tpmManufacturer": "IFX", "renewalDue": True}
    backend.add_thing(_LONGEST)
    backend.invites |= {name: invite(name, f"{len(name):016}") for name in ("gateway-61", _LONGEST)}
    return backend


def _list(browser: Chrome, site: Site) -> None:
    site.seen.known = {"gateway-00": Sighting(True, datetime.now(UTC)), "gateway-01": Sighting(False, None)}
    browser.get(f"{site.base}?prefix=gateway-0")  # some of each status: what is found on ten is found on fifty


def _last_page(browser: Chrome, site: Site) -> None:
    site.seen.known = Unknown.OFF
    browser.get(f"{site.base}?next={site.backend.token.replace('%', '%25').replace('&', '%26').replace('+', '%2B')}50")


def _thing(browser: Chrome, site: Site) -> None:
    browser.get(f"{site.base}things/{_LONGEST}")


def _confirmation(browser: Chrome, site: Site) -> None:
    browser.get(f"{site.base}revoke?thing=gateway-01&thing={_LONGEST}")


def _replacement(browser: Chrome, site: Site) -> None:
    browser.get(f"{site.base}replace?thing=gateway-01")


def _outcome(browser: Chrome, site: Site) -> None:
    site.backend.stubborn["gateway-04"] = problem(409, "thing-busy")
    browser.get(f"{site.base}revoke?thing=gateway-04&thing=gateway-02")
    walk.press(browser, "Revoke 2 Things")


def _invites(browser: Chrome, site: Site) -> None:
    browser.get(f"{site.base}invites")
    browser.find_element(By.CSS_SELECTOR, "summary").click()


def _form(browser: Chrome, site: Site) -> None:
    browser.get(f"{site.base}invites/new")


def _mistake(browser: Chrome, site: Site) -> None:
    _form(browser, site)
    walk.one(browser, "#things").send_keys("not a name")
    walk.press(browser, "Create")


def _labels(browser: Chrome, site: Site) -> None:
    _form(browser, site)
    walk.one(browser, "#things").send_keys(f"gateway-70\ngateway-01\n{_LONGEST}")
    walk.press(browser, "Create")


def _error(browser: Chrome, site: Site) -> None:
    browser.get(f"{site.base}revoke")


def _denied(browser: Chrome, site: Site) -> None:
    forget(browser)
    browser.get(site.base)
    assert walk.heading(browser) == "This page is closed to this browser"


_PAGES: dict[str, Callable[[Chrome, Site], None]] = {
    "list": _list,
    "last page": _last_page,
    "thing": _thing,
    "confirmation": _confirmation,
    "replacement": _replacement,
    "outcome": _outcome,
    "invites": _invites,
    "form": _form,
    "mistake": _mistake,
    "labels": _labels,
    "error": _error,
    "denied": _denied,
}


@cache
def _axe() -> str:
    return files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def _violations(browser: Chrome, *rules: str) -> list[str]:
    """Return what axe finds against WCAG 2.1, A and AA, and its own best practices, or against some rules alone."""
    options = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
    found: list[dict[str, Any]] = browser.execute_async_script(
        "axe.run(document, arguments[0]).then(found => arguments[1](found.violations))", options
    )
    return [f"{one['id']}: {json.dumps([node['html'] for node in one['nodes']])}" for one in found]


@pytest.mark.parametrize("page", _PAGES)
def test_a_page_is_accessible(entered: Chrome, site: Site, page: str) -> None:
    """axe-core finds nothing on any page, nor in its colours in the dark; nothing is outside a narrow screen."""
    _PAGES[page](entered, site)
    entered.execute_cdp_cmd("Runtime.evaluate", {"expression": _axe()})
    assert _violations(entered) == []
    prefer(entered, prefers_color_scheme="dark")
    resize(entered, 400)
    assert _violations(entered, "color-contrast") == []
    for width in (400, 700, 1089):
        resize(entered, width)
        assert _outside(entered, width) == []


def _outside(browser: Chrome, width: int) -> list[str]:
    """Return what is seen only if one scrolls to the side."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(':not(thead *, caption, .skip)')]"
        ".filter(one => one.checkVisibility() && one.getBoundingClientRect().right > arguments[0] + .5)"
        ".map(one => one.outerHTML)",
        width,
    )
    return found


def test_what_a_screen_reader_says(entered: Chrome, site: Site) -> None:
    """A table with its caption and headers, boxes with names, one main heading, landmarks; also on a narrow screen."""
    for width in (1280, 400):
        resize(entered, width)
        _last_page(entered, site)
        tree = entered.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        said = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]}
        assert {
            ("RootWebArea", "Things - hsm-enroll"),
            *(("banner", ""), ("main", ""), ("contentinfo", "")),
            *(("navigation", "Pages"), ("navigation", "Language"), ("navigation", "More pages"), ("search", "Filter")),
            ("heading", "Things"),
            ("table", "Things, the last one claimed first"),
            *(
                ("columnheader", name)
                for name in ("Thing", "Status", "Last seen", "Certificate's age", "Key", "Attested")
            ),
            ("rowheader", "gateway-50"),
            ("cell", "revoked" if width == 1280 else "Status revoked"),
            ("checkbox", "Select gateway-51"),
            *([("checkbox", "Select all Things on this page")] if width == 1280 else []),
            ("button", "Revoke selected Things…"),
            ("link", "Skip to the content"),
        } - said == set()
        # Some browsers forget what the parts of a table are where the style sheet shows them as something else.
        assert entered.find_elements(By.CSS_SELECTOR, "table :is(thead, tbody, tr, th, td):not([role])") == []
        statuses = [node for node in tree if not node["ignored"] and node["role"]["value"] == "status"]
        assert [live["value"]["value"] for live in statuses[0]["properties"] if live["name"] == "live"] == ["polite"]


def test_an_error_is_announced(entered: Chrome, site: Site) -> None:
    """It is an alert, which a screen reader reads out at once: in the page's language, with the details in English."""
    entered.get(f"{site.base}revoke?language=ja")
    alert = walk.one(entered, "[role=alert]")
    assert alert.aria_role == "alert"
    assert walk.one(entered, "html").get_attribute("lang") == "ja"
    assert walk.one(entered, "[role=alert] [lang]").get_attribute("lang") == "en"
    assert walk.one(entered, "[role=alert] [lang]").text.startswith("no Thing is selected.")


def test_forced_colours(entered: Chrome, site: Site) -> None:
    """With the system's own colours, buttons and states keep their borders, and a label stays black on white."""
    prefer(entered, forced_colors="active", prefers_color_scheme="dark")
    _list(entered, site)
    for selector in (".danger", ".status.issued", "#prefix", "table"):
        border = entered.execute_script(
            "return getComputedStyle(document.querySelector(arguments[0])).borderTopStyle", selector
        )
        assert border == "solid", selector
    _labels(entered, site)
    colours = "const style = getComputedStyle(document.querySelector('.labels li')); return style.backgroundColor"
    assert entered.execute_script(colours) == "rgb(255, 255, 255)"


def test_without_scripts(entered: Chrome, site: Site) -> None:
    """The pages work without JavaScript; what needs it is not shown."""
    entered.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        _list(entered, site)
        assert not walk.one(entered, "thead input").is_displayed()
        walk.one(entered, "input[value=gateway-03]").click()
        walk.press(entered, "Revoke selected Things…")
        assert "gateway-03" in walk.one(entered, ".names").text
        _labels_without_scripts(entered, site)
    finally:
        entered.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def _labels_without_scripts(browser: Chrome, site: Site) -> None:
    _form(browser, site)
    walk.one(browser, "#things").send_keys("gateway-71")
    walk.press(browser, "Create")
    assert not browser.find_element(By.CSS_SELECTOR, "[data-prints]").is_displayed()
    assert walk.one(browser, ".labels .name").text == "gateway-71"
