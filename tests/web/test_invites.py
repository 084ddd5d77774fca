"""Invites in a browser: created from a list of names, printed as labels, shown once, and revoked."""

from __future__ import annotations

import base64
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from tests.operator.api.stand_in import problem
from tests.web import walk
from tests.web.browser import picture
from tests.web.site import Site, alert, ask, cookie_of, invite, visit


@pytest.fixture
def form(entered: Chrome, site: Site) -> Chrome:
    """At the form for new invites; no invites yet."""
    site.backend.invites.clear()
    site.backend.codes.clear()
    entered.get(f"{site.base}invites/new")
    return entered


def _create(browser: Chrome, names: str) -> None:
    walk.one(browser, "#things").send_keys(names)
    walk.press(browser, "Create")


def test_a_label_has_the_invite_as_a_qr_code(form: Chrome, site: Site, tmp_path: Path) -> None:
    """A scanner reads from the picture of the page what a technician needs; name, expiry and invite are beside it."""
    _create(form, "gateway-17")
    assert walk.heading(form) == "1 new invite"
    invite = f"{site.backend.url}/#{site.backend.codes[0]}"
    name, expiry, shown = walk.texts(form, ".labels p")
    assert (name, expiry, shown) == ("gateway-17", "valid until 2026-11-24 10:00 UTC", invite)
    picture(form, tmp_path / "page.png")
    scanned = subprocess.run(
        ["zbarimg", "--quiet", "--raw", str(tmp_path / "page.png")], capture_output=True, text=True, check=True
    )
    assert scanned.stdout.splitlines() == [invite]


def test_invites_are_shown_once(form: Chrome, site: Site) -> None:
    """Loading the page again, or going back to it, shows no code and creates no further invite."""
    _create(form, "gateway-17")
    labels = form.current_url
    form.refresh()
    assert walk.heading(form) == "These invites have been shown"
    assert site.backend.codes[0] not in form.page_source
    walk.press(form, "Invites")
    form.back()
    assert (form.current_url, walk.heading(form)) == (labels, "These invites have been shown")
    assert len(site.backend.codes) == 1


def test_a_form_that_is_sent_twice_creates_one_invite(form: Chrome, site: Site) -> None:
    """A double click does that: both lead to the same page. The same names in a new form are new invites."""
    hidden = {name: walk.one(form, f"input[name={name}]").get_attribute("value") or "" for name in ("token", "number")}
    filled = {**hidden, "things": "gateway-17", "ttl": "24h", "uses": "1"}
    path, cookie = urlsplit(form.current_url).path, cookie_of(site)
    with ThreadPoolExecutor() as clicks:
        answers = [*clicks.map(lambda _: ask(site, path, cookie=cookie, form=filled), range(2))]
    assert len({answer.headers["Location"] for answer in answers}) == len(site.backend.codes) == 1
    form.refresh()
    _create(form, "gateway-17")
    assert len(site.backend.codes) == 2


def test_a_second_click_sends_nothing(form: Chrome) -> None:
    """While the browser waits for the page with the invites, which would be shown to nobody if it gave that one up."""
    walk.one(form, "#things").send_keys("gateway-17")
    stopped = form.execute_script(
        "const stopped = [];"
        "const click = () => document.querySelector('form[method=post] button').click();"
        "document.addEventListener('submit', (event) => {"
        " stopped.push(event.defaultPrevented); event.preventDefault(); });"
        "click(); click(); window.dispatchEvent(new Event('pageshow')); click(); return stopped"
    )
    assert stopped == [False, True, False]


def test_a_list_is_pasted(form: Chrome, site: Site) -> None:
    """A name on each line, blank lines and repetitions left out; how long, for how many, and only for TPMs."""
    Select(walk.one(form, "#ttl")).select_by_visible_text("7 days")
    walk.one(form, "#uses").clear()
    walk.one(form, "#uses").send_keys("3")
    walk.one(form, "input[name=require-tpm]").click()
    _create(form, "line3-*\n\n line4-* \nline3-*\n")
    assert walk.heading(form) == "2 new invites"
    asked = {"uses": 3, "ttlSeconds": 7 * 86400, "requireTpm": True}
    assert site.backend.received[-1].body == {"invites": [{"thing": f"line{n}-*", **asked} for n in (3, 4)]}
    assert walk.texts(form, ".labels p")[1] == "valid until 2026-11-24 10:00 UTC, for 3 Things"


def test_a_table_is_pasted(form: Chrome, site: Site) -> None:
    """Of a table in CSV, the column thing is taken."""
    _create(form, "site,thing\nLyon,gateway-1\nKobe,gateway-2\n")
    assert [one["thing"] for one in site.backend.received[-1].body["invites"]] == ["gateway-1", "gateway-2"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("gateway-1\ngateway 2", "name 2: thing is not a valid Thing name What to do: A name has 1 to 64"),
        (" ", "no names are given What to do: Write one name per line."),
        ("a,b\nc,d", "the table has no column 'thing'"),
        ("\n".join(f"gateway-{number}" for number in range(201)), "201 names are too many for one page of labels"),
    ],
)
def test_a_mistake_is_told_beside_what_was_typed(site: Site, names: str, said: str) -> None:
    """Nothing is created; the form still has the names and choices."""
    before = len(site.backend.received)
    page = visit(site, "invites/new", {"things": names, "ttl": "30d", "uses": "1"})
    assert said in alert(page)
    assert f">\n{names}</textarea>" in page.text
    assert '<option value="30d" selected>' in page.text
    assert len(site.backend.received) == before


def test_many_are_created_in_several_requests(site: Site) -> None:
    """101 invites, 100 of them in one request, have one page of labels."""
    names = "\n".join(f"gateway-{number}" for number in range(101))
    sent = visit(site, "invites/new", {"things": names, "ttl": "24h", "uses": "1"})
    assert "/labels/" in sent.headers["Location"]
    assert [len(request.body["invites"]) for request in site.backend.received[-2:]] == [100, 1]


def test_an_outage_half_way_loses_nothing(site: Site) -> None:
    """What was created is shown with the error, and the names that have no invite, to be tried again."""
    site.backend.replies[len(site.backend.received) + 1] = problem(500, "internal")
    names = "\n".join(f"gateway-{number}" for number in range(103))
    sent = visit(site, "invites/new", {"things": names, "ttl": "24h", "uses": "1"})
    page = visit(site, sent.headers["Location"].removeprefix(urlsplit(site.base).path))
    assert "<h1>100 new invites</h1>" in page.text
    assert page.text.count('class="qr"') == 100
    assert "invites may have been made, and their codes are lost" in alert(page)
    assert '<textarea id="left" readonly rows="4">\ngateway-100\ngateway-101\ngateway-102</textarea>' in page.text


def test_the_labels_are_printed_alone(form: Chrome, tmp_path: Path) -> None:
    """On paper there are the labels, and nothing of the page around them; two of them side by side."""
    _create(form, "\n".join(f"gateway-{number}" for number in range(3)))
    paper = tmp_path / "labels.pdf"
    paper.write_bytes(base64.b64decode(form.print_page()))
    form.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = form.execute_script(
        "return [...document.querySelectorAll('body *')]"
        ".filter(one => one.checkVisibility() && !one.closest('.labels'))"
        ".map(one => one.innerText).join('').replaceAll(document.querySelector('.labels').innerText, '')"
    )
    labels = form.find_elements(By.CSS_SELECTOR, ".labels li")
    places = [label.rect for label in labels]
    assert {label.value_of_css_property("break-inside") for label in labels} == {"avoid"}  # none on two sheets
    form.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert shown.strip() == ""
    assert places[0]["y"] == places[1]["y"] < places[2]["y"]
    millimetre = 96 / 25.4
    assert round(places[0]["width"] / millimetre) == 90
    assert paper.read_bytes().startswith(b"%PDF")


def test_invites_are_listed_and_revoked(form: Chrome, site: Site) -> None:
    """The list has no codes. Revoking is a second step that names the Thing, and says afterwards which it was."""
    _create(form, "gateway-17\nline3-*")
    codes = [*site.backend.codes]
    walk.press(form, "Invites")
    assert not [code for code in codes if code in form.page_source]
    (first, second) = site.backend.invites
    assert walk.row(form, "gateway-17")[:7] == [
        *("gateway-17", "open", "0/1", "2026-11-24 10:00", "2026-11-23 10:00", "-"), first,
    ]  # fmt: skip
    walk.named(form, "Revoke the invite for gateway-17…").click()
    walk.press(form, "Revoke the invite for gateway-17")
    assert walk.texts(form, ".done") == [f"Invite {first} is revoked."]
    assert walk.row(form, "gateway-17")[1] == "revoked"
    assert (site.backend.invites[first]["status"], site.backend.invites[second]["status"]) == ("revoked", "open")
    Select(walk.one(form, "#status")).select_by_visible_text("open")
    walk.press(form, "Show")
    assert walk.texts(form, "tbody th") == ["line3-*"]


def test_what_an_invite_needs_is_listed(form: Chrome, site: Site) -> None:
    """A TPM, one TPM, that it replaces a key, or two of these."""
    kinds: dict[str, dict[str, Any]] = {
        "a": {"requireTpm": True},
        "b": {"ekSha256": "ab" * 32},
        "c": {"replacesKey": True},
        "d": {"requireTpm": True, "replacesKey": True},
    }
    for number, (name, members) in enumerate(kinds.items()):
        site.backend.invites[name] = invite(name, f"{number:016}") | members
    form.get(f"{site.base}invites")
    assert [walk.row(form, name)[5] for name in kinds] == [
        "a TPM",
        "one TPM",
        "replaces the key",
        "a TPM, replaces the key",
    ]


def test_in_japanese(form: Chrome) -> None:
    """One link switches the page that is shown, filters and all, and those after it, and back."""
    form.get(f"{form.current_url.removesuffix('/new')}?prefix=line3-&status=open")
    walk.press(form, "日本語")
    assert walk.heading(form) == "招待コード"
    assert walk.one(form, "html").get_attribute("lang") == "ja"
    assert walk.one(form, "#prefix").get_attribute("value") == "line3-"
    walk.press(form, "新しい招待コード")
    assert walk.texts(form, "label")[0] == "モノの名前"
    _create_in_japanese(form)
    assert walk.texts(form, ".labels p")[1] == "2026-11-24 10:00 UTC まで有効"
    walk.press(form, "招待コード")
    walk.press(form, "English")
    assert walk.heading(form) == "Invites"


def _create_in_japanese(browser: Chrome) -> None:
    walk.one(browser, "#things").send_keys("gateway-22")
    walk.press(browser, "作成")
