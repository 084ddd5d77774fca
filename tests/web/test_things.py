"""The fleet in a browser: 10,000 Things, filtered and paged, one of them, and revoking some."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from hsm_enroll.operator.last_seen import Sighting, Unknown
from tests.operator.api.stand_in import Backend, Reply, json_reply, problem
from tests.web import walk
from tests.web.site import Site, alert, visit

_NAMES = "tbody th"


@pytest.fixture(scope="module")
def backend(backend: Backend) -> Backend:
    """Its ledger has 10,000 Things, the 100 of line 7 among them."""
    for number in range(10_000):
        line = number // 100
        backend.add_thing(f"line{line}-{number:05}", "revoked" if number % 10 == 9 else "issued")
    for number in range(700, 800, 4):
        backend.things[f"line7-{number:05}"] |= {"attested": True, "tpmManufacturer": "IFX", "tpmFirmware": "7.85"}
    return backend


def test_10000_things_come_in_pages(browser: Chrome, site: Site) -> None:
    """Each page asks the API for one page, whose token it passes on as it is; one link leads back to the first."""
    first = walk.texts(browser, _NAMES)
    assert (len(first), first[0], first[-1]) == (50, "line0-00000", "line0-00049")
    assert walk.texts(browser, "[role=status]") == ["50 entries on this page; there are more."]
    before = len(site.backend.received)
    walk.press(browser, "Next page")
    assert walk.texts(browser, _NAMES)[0] == "line0-00050"
    (request,) = site.backend.received[before:]
    assert request.query == {"limit": "50", "next": f"{site.backend.token}50"}
    walk.press(browser, "Next page")
    assert walk.texts(browser, _NAMES)[0] == "line1-00100"
    walk.press(browser, "First page")
    assert walk.texts(browser, _NAMES) == first


def test_filters_are_kept_from_page_to_page(browser: Chrome, site: Site) -> None:
    """Prefix, status and attestation are asked of the API, stay in the form and in the links, and can be cleared."""
    walk.one(browser, "#prefix").send_keys("line7-*")
    Select(walk.one(browser, "#status")).select_by_visible_text("issued")
    walk.press(browser, "Show")
    assert len(walk.texts(browser, _NAMES)) == 50
    walk.press(browser, "Next page")
    shown = walk.texts(browser, _NAMES)
    assert (len(shown), {name.partition("-")[0] for name in shown}) == (40, {"line7"})
    assert walk.texts(browser, "[role=status]") == ["40 entries."]
    Select(walk.one(browser, "#attested")).select_by_visible_text("yes")
    walk.press(browser, "Show")
    assert site.backend.received[-1].query == {
        "limit": "50", "prefix": "line7-", "status": "issued", "attested": "yes"
    }  # fmt: skip
    assert walk.one(browser, "#prefix").get_attribute("value") == "line7-"
    assert Select(walk.one(browser, "#status")).first_selected_option.text == "issued"
    assert walk.row(browser, "line7-00700")[5] == "yes (IFX)"
    walk.press(browser, "Clear filters")
    assert walk.texts(browser, _NAMES)[0] == "line0-00000"


def test_a_filter_that_matches_nothing(site: Site) -> None:
    """It says so, and has no table."""
    page = visit(site, "?prefix=nowhere").text
    assert '<p role="status">Nothing matches.' in page
    assert "<table" not in page


def test_a_prefix_that_no_name_can_begin_with(site: Site) -> None:
    """The API is not asked; the error says what is possible, and the form has what was typed."""
    before = len(site.backend.received)
    page = visit(site, "?prefix=line+7")
    assert "no Thing name begins with 'line 7' What to do: A name has 1 to 128" in alert(page)
    assert 'name="prefix" value="line 7"' in page.text
    assert len(site.backend.received) == before


def test_pages_of_the_api_that_are_empty_are_skipped(site: Site) -> None:
    """Where few entries match, the API may answer with none and a token; the next page is asked for at once."""
    token = f"{site.backend.token}9950"
    site.answer_next(*[json_reply(200, {"things": [], "next": token})] * 2)
    page = visit(site, "?status=revoked").text
    assert [request.query.get("next") for request in site.backend.received[-3:]] == [None, token, token]
    assert '<p role="status">Nothing matches.' in page


def test_when_things_were_last_seen(browser: Chrome, site: Site) -> None:
    """Connected, how long ago, or never; a dash for a Thing that is not in the index."""
    ago = datetime.now(UTC) - timedelta(hours=3, minutes=5)
    site.seen.known = {
        "line0-00000": Sighting(True, ago),
        "line0-00001": Sighting(False, ago),
        "line0-00002": Sighting(False, None),
    }
    browser.refresh()
    seen = [walk.row(browser, f"line0-0000{number}")[2] for number in range(4)]
    assert seen == ["connected", "3 h ago", "never", "-"]
    exact = walk.one(browser, "tbody tr:nth-child(2) td:nth-child(4) time")
    assert exact.get_attribute("title") == f"{ago:%Y-%m-%d %H:%M} UTC"


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (Unknown.OFF, "fleet indexing of connectivity is not enabled"),
        (Unknown.FORBIDDEN, "your AWS identity needs iot:GetIndexingConfiguration and iot:SearchIndex"),
        (Unknown.FAILED, "AWS IoT did not answer"),
    ],
)
def test_why_it_is_not_known_is_said(site: Site, why: Unknown, said: str) -> None:
    """The list is shown all the same, with a note above it; if indexing is off, with the command that enables it."""
    site.seen.known = why
    page = visit(site, "?prefix=line0-0000").text
    note = page.partition('<p class="note">')[2].partition("</p>")[0]
    assert said in note
    assert ("aws iot update-indexing-configuration" in note) == (why is Unknown.OFF)
    assert page.count('data-label="Last seen"><span>-') == 10


def test_one_thing(browser: Chrome, site: Site) -> None:
    """Its name leads to a page with all that the backend knows, other certificates among it."""
    site.backend.attached["line0-00003"] = [
        {"certificateId": "ab" * 32, "active": True, "created": "2026-11-23T10:00:00Z"}
    ]
    walk.press(browser, "line0-00003")
    assert walk.heading(browser) == "Thing line0-00003"
    shown = dict(zip(walk.texts(browser, "dt"), walk.texts(browser, "dd"), strict=True))
    assert shown["Certificate"] == site.backend.things["line0-00003"]["certificateId"]
    assert (shown["Status"], shown["Claimed"], shown["Revoked"]) == ("issued", "2026-11-23 09:59", "-")
    assert shown["Other certificates"] == f"{'ab' * 32} (active)"
    walk.press(browser, "Revoke this Thing…")
    assert walk.heading(browser) == "Revoke line0-00003?"


@pytest.mark.parametrize(
    ("because", "said"),
    [
        ("not-committed", "its device did not commit the renewal within an hour"),
        ("old-key-used", "its old key was used again ("),
        ("of-a-later-backend", "of-a-later-backend"),
    ],
)
def test_why_a_thing_was_not_renewed(site: Site, because: str, said: str) -> None:
    """When its renewal was undone, and why; a Thing of which none was undone has no such row."""
    site.backend.things["line0-00005"] |= {"renewalUndone": "2026-11-23T12:34:56Z", "renewalUndoneBecause": because}
    page = visit(site, "things/line0-00005").text
    assert f'<dt>Renewal undone</dt><dd><time datetime="2026-11-23T12:34:56Z">2026-11-23 12:34</time>: {said}' in page
    assert "Renewal undone" not in visit(site, "things/line0-00006").text


def test_revoking_names_the_things_first(browser: Chrome, site: Site) -> None:
    """Those selected are named with their status; Cancel revokes none, and the second button revokes just these."""
    for name in ("line0-00004", "line0-00006"):
        walk.one(browser, f"input[value={name}]").click()
    walk.press(browser, "Revoke selected Things…")
    assert walk.heading(browser) == "Revoke 2 Things?"
    assert walk.texts(browser, ".names li") == ["line0-00004 issued", "line0-00006 issued"]
    walk.press(browser, "Cancel")
    assert site.backend.things["line0-00004"]["status"] == "issued"
    browser.back()
    before = len(site.backend.received)
    walk.press(browser, "Revoke 2 Things")
    assert walk.heading(browser) == "2 of 2 Things are revoked"
    asked = [request.query for request in site.backend.received[before:] if request.method == "DELETE"]
    assert asked == [{"thing": name, "others": "show"} for name in ("line0-00004", "line0-00006")]
    walk.press(browser, "Back to the Things")
    assert walk.row(browser, "line0-00004")[1] == "revoked"
    assert browser.find_elements(By.CSS_SELECTOR, "input[value=line0-00004]") == []


def test_all_things_of_a_page_are_selected_at_once(browser: Chrome) -> None:
    """One box selects them all, without those that are revoked, and none again; it shows if only some are selected."""
    everything = walk.one(browser, "thead input")
    assert everything.accessible_name == "Select all Things on this page"
    boxes = browser.find_elements(By.CSS_SELECTOR, "input[name=thing]")
    everything.click()
    assert all(box.is_selected() for box in boxes)
    boxes[0].click()
    assert everything.get_property("indeterminate") is True
    everything.click()
    everything.click()
    assert not any(box.is_selected() for box in boxes)


def test_one_that_cannot_be_revoked_does_not_keep_the_others(entered: Chrome, site: Site) -> None:
    """A refusal is shown beside its Thing with what to do, and the others are revoked."""
    names = ["line0-00010", "line0-00011", "line0-00012"]
    site.backend.stubborn[names[1]] = problem(409, "thing-busy")
    entered.get(f"{site.base}revoke?thing={'&thing='.join(names)}")
    walk.press(entered, "Revoke 3 Things")
    assert walk.heading(entered) == "2 of 3 Things are revoked"
    first, second, third = walk.texts(entered, ".outcomes li")
    assert (first, third) == (f"{names[0]} revoked", f"{names[2]} revoked")
    assert "thing-busy" in second
    assert "request id the-request" in second


def test_an_outage_ends_it(entered: Chrome, site: Site) -> None:
    """What would fail for all is not tried for all: the page says which Things are left."""
    names = ["line0-00013", "line0-00014", "line0-00015"]
    site.backend.stubborn[names[0]] = problem(500, "internal")
    entered.get(f"{site.base}revoke?thing={'&thing='.join(names)}")
    walk.press(entered, "Revoke 3 Things")
    assert walk.heading(entered) == "0 of 3 Things are revoked"
    assert walk.texts(entered, ".outcomes li")[1:] == [f"{name} not tried" for name in names[1:]]
    assert "select those that are left" in walk.one(entered, "main").text


def test_other_certificates_are_named_or_deactivated(entered: Chrome, site: Site) -> None:
    """One that stays active is a warning; with the box ticked, it is deactivated too."""
    site.backend.attached["line0-00016"] = [
        {"certificateId": "cd" * 32, "active": True, "created": "2026-11-23T10:00:00Z"}
    ]
    for ticked in (False, True):
        entered.get(f"{site.base}revoke?thing=line0-00016")
        if ticked:
            walk.one(entered, "input[name=all-certificates]").click()
        walk.press(entered, "Revoke line0-00016")
        assert ("cd" * 32 in walk.one(entered, ".outcomes").text) is not ticked
    assert site.backend.received[-1].query["others"] == "deactivate"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("", "no Thing is selected"),
        ("?thing=gone", "the ledger has no Thing 'gone'"),
        ("?thing=a%20b", "'a b' is not a valid Thing name"),
    ],
)
def test_what_cannot_be_revoked_is_an_error(site: Site, asked: str, said: str) -> None:
    """Nothing selected, or no such Thing: the error, what to do, and the way back."""
    page = visit(site, f"revoke{asked}")
    assert said in alert(page)
    assert "What to do: " in alert(page)
    assert f'<a href="{urlsplit(site.base).path}">Back to the Things</a>' in page.text


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            json_reply(403, {"message": "Forbidden"}),
            "does not admit this AWS identity: Forbidden What to do: Your AWS identity needs execute-api:Invoke",
        ),
        (problem(500, "internal"), "See docs/troubleshooting.md#backend-unreachable"),
    ],
)
def test_an_error_of_the_api_is_shown_with_its_hint(site: Site, reply: Reply, said: str) -> None:
    """As on the command line: what happened, what to do next, and the page that says more."""
    site.answer_next(reply)
    page = visit(site, "")
    assert said in alert(page)
    assert "<title>Error - hsm-enroll</title>" in page.text
    assert site.faults == []


def test_an_error_that_nobody_expected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page names its kind and nothing else of it; the terminal is told."""
    monkeypatch.setattr(site.seen, "of", lambda _: {"some": "thing"}["a secret"])
    page = visit(site, "")
    assert "unexpected error: KeyError What to do: The terminal in which" in alert(page)
    assert "a secret" not in page.text
    assert [type(fault) for fault in site.faults] == [KeyError]
    site.faults.clear()


def test_all_of_it_by_keyboard(entered: Chrome, site: Site) -> None:
    """From the first Tab on, past the navigation, a Thing is selected and revoked; what has the focus is marked."""
    entered.get(f"{site.base}?prefix=line0-0002")
    keys = ActionChains(entered)

    def tab_to(name: str) -> None:
        for _ in range(40):
            keys.send_keys(Keys.TAB).perform()
            outline, shown = entered.execute_script(
                "const one = document.activeElement; return [getComputedStyle(one).outlineStyle,"
                " one.ariaLabel ?? (one.labels?.[0] ?? one).innerText.trim()]"
            )
            assert outline != "none"
            if shown == name:
                assert entered.switch_to.active_element.accessible_name == name
                return
        pytest.fail(f"no Tab leads to {name!r}")

    tab_to("Skip to the content")
    keys.send_keys(Keys.ENTER).perform()
    assert entered.switch_to.active_element.get_attribute("id") == "content"
    tab_to("Name begins with")
    tab_to("Select line0-00021")
    keys.send_keys(Keys.SPACE).perform()
    tab_to("Revoke selected Things…")
    with walk.leaving(entered):
        keys.send_keys(Keys.ENTER).perform()
    assert walk.heading(entered) == "Revoke line0-00021?"
    tab_to("Revoke line0-00021")
    with walk.leaving(entered):
        keys.send_keys(Keys.ENTER).perform()
    assert walk.heading(entered) == "1 of 1 Things are revoked"
    assert site.backend.things["line0-00021"]["status"] == "revoked"
