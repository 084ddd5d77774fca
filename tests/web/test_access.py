"""Who may use the page: the browser that got its address, and nothing else on the machine or in the browser."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlencode, urlsplit

import pytest

from tests.web.site import Site, ask, cookie_of


@pytest.fixture
def place(site: Site) -> str:
    """The path of the list of Things."""
    return urlsplit(site.url).path


@pytest.fixture
def cookie(site: Site) -> str:
    """The cookie of a browser that was let in."""
    return cookie_of(site)


def test_the_key_is_exchanged_for_a_cookie(site: Site, place: str) -> None:
    """The address leads to one without the key; the cookie is for that path alone, and no script or site can use it."""
    entered = ask(site, f"{place}?{urlsplit(site.url).query}")
    assert (entered.status, entered.headers["Location"]) == (303, place)
    _, *attributes = entered.headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"HttpOnly", "SameSite=Strict", f"Path={place.rstrip('/')}"}
    assert ask(site, place, cookie=entered.headers["Set-Cookie"].partition(";")[0]).status == 200


@pytest.mark.parametrize(
    "path", ["", "invites", "invites/new", "revoke?thing=a", "replace?thing=a", "things/a", "labels/x", "nowhere"]
)
def test_without_the_cookie_no_page_is_shown(site: Site, place: str, path: str) -> None:
    """Nothing of the fleet, of the API or of a form's token is in the answer, and the API is not asked."""
    before = len(site.backend.received)
    for answer in (ask(site, place + path), ask(site, place + path, cookie="hsm-enroll=guess")):
        assert answer.status in {403, 404}
        assert site.backend.url not in answer.text
        assert 'name="token"' not in answer.text
    assert len(site.backend.received) == before


@pytest.mark.parametrize("key", ["", "guess", "ü", "%ed%a0%80"])
def test_a_wrong_key_lets_nobody_in(site: Site, place: str, key: str) -> None:
    """Whatever it is, the answer says where the right address is found, and sets no cookie."""
    answer = ask(site, f"{place}?{urlencode({'key': key})}")
    assert answer.status == 403
    assert "Set-Cookie" not in answer.headers
    assert "hsm-enroll fleet web" in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}"]
)
def test_another_host_name_is_refused(site: Site, place: str, cookie: str, host: str) -> None:
    """A name that was pointed at this machine (DNS rebinding) gets no page, even with the cookie."""
    answer = ask(site, place, cookie=cookie, host=host.format(port=urlsplit(site.url).port))
    assert answer.status == 421
    assert "Thing" not in answer.text


@pytest.mark.parametrize("form", [{}, {"token": ""}, {"token": "guess"}])
@pytest.mark.parametrize("path", ["revoke", "replace", "invites/new", "invites/revoke"])
def test_a_form_from_elsewhere_does_nothing(
    site: Site, place: str, cookie: str, path: str, form: dict[str, str]
) -> None:
    """A request without the page's token is refused before the API is asked, even with the cookie."""
    site.backend.add_thing("gateway-17")
    before = len(site.backend.received)
    answer = ask(site, place + path, cookie=cookie, form={**form, "thing": "gateway-17", "things": "gateway-17"})
    assert answer.status == 403
    assert "nothing was done" in answer.text
    assert len(site.backend.received) == before


def test_a_get_changes_nothing(site: Site, place: str, cookie: str) -> None:
    """What revokes or creates is reached by POST alone."""
    site.backend.add_thing("gateway-18")
    for path in ("revoke?thing=gateway-18", "invites/new?things=gateway-18", "invites/revoke?id=0123456789abcdef"):
        ask(site, place + path, cookie=cookie)
    assert {request.method for request in site.backend.received} <= {"GET"}


def test_browsers_are_told_what_the_page_may_do(site: Site, place: str, cookie: str) -> None:
    """Every answer, also a refusal: nothing from elsewhere, no frames, nothing kept, no address told to others."""
    for answer in (
        ask(site, place, cookie=cookie),
        ask(site, place),
        ask(site, "/"),
        ask(site, place, host="evil.example"),
        ask(site, f"{place}static/style.css"),
    ):
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert set(re.findall(r"'[^']+'", policy)) == {"'none'", "'self'"}
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Server"] == "hsm-enroll"


def test_pages_need_nothing_from_elsewhere(site: Site, place: str, cookie: str) -> None:
    """Every address in a page is below its own path, and there is no script or style in the page itself."""
    site.backend.add_thing("gateway-19")
    for path in (
        "",
        "invites",
        "invites/new",
        *(f"{page}gateway-19" for page in ("things/", "revoke?thing=", "replace?thing=")),
    ):
        text = ask(site, place + path, cookie=cookie).text
        assert {
            address for address in re.findall(r'(?:href|src|action)="([^"#]+)', text) if not address.startswith(place)
        } == set()
        assert re.search(r"<script(?! defer src)|<style| style=| on[a-z]+=", text) is None


def test_it_listens_on_loopback_alone(site: Site) -> None:
    """Another address of this machine refuses the connection."""
    port = urlsplit(site.url).port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port or 0), timeout=5)


def test_names_are_shown_as_text(site: Site, place: str, cookie: str) -> None:
    """What is given in the address or in a form comes back escaped."""
    nasty = "<script>alert(1)</script>"
    for path in (
        f"?prefix={nasty}",
        f"invites?revoked={nasty}",
        f"invites/new?things={nasty}",
        f"revoke?thing={nasty}",
    ):
        answer = ask(site, place + path.replace("<", "%3C").replace(">", "%3E"), cookie=cookie)
        assert nasty not in answer.text
        assert "alert(1)" in answer.text


@pytest.mark.parametrize("member", ["thing", "status", "keyType", "certificateId", "tpmManufacturer", "tpmFirmware"])
def test_what_the_backend_says_is_shown_as_text_or_not_at_all(site: Site, place: str, cookie: str, member: str) -> None:
    """No member of a Thing becomes a part of the page, whoever has put it into the ledger."""
    nasty = "<b>nasty</b>"
    site.backend.add_thing("nasty")
    site.backend.things["nasty"] |= {"attested": True, "tpmManufacturer": "IFX", member: nasty}
    answers = "".join(ask(site, place + path, cookie=cookie).text for path in ("", "things/nasty"))
    del site.backend.things["nasty"]
    assert nasty not in answers
    assert "<h1>Error</h1>" in answers or "&lt;b&gt;nasty&lt;/b&gt;" in answers


@pytest.mark.parametrize(
    ("language", "shown"), [("ja,en;q=0.5", "ja"), ("de, en;q=0.5", "en"), ("de", "en"), ("", "en")]
)
def test_the_browsers_language_is_taken(site: Site, place: str, cookie: str, language: str, shown: str) -> None:
    """Japanese where that is preferred, or else English; also for who is not let in."""
    assert f'<html lang="{shown}">' in ask(site, place, cookie=cookie, language=language).text
    assert f'<html lang="{shown}">' in ask(site, place, language=language).text


def test_what_is_too_large_is_refused(site: Site, place: str, cookie: str) -> None:
    """A form of a megabyte is not read."""
    assert ask(site, f"{place}invites/new", cookie=cookie, form={"things": "a\n" * 500_000}).status == 413


def test_an_address_that_does_not_exist(site: Site, place: str, cookie: str) -> None:
    """404, below the path and elsewhere; nothing of it counts as a fault."""
    assert ask(site, f"{place}nowhere", cookie=cookie).status == 404
    assert ask(site, "/nowhere").status == 404
    assert site.faults == []


def test_the_path_is_told_to_nobody(site: Site, place: str) -> None:
    """An answer outside the pages names no path, whatever it is asked: other servers could get the cookie with it."""
    for path in ("/", "/?language=ja", "/nowhere?language=ja", "/static/style.css", f"{place[:-2]}?language=ja"):
        answer = ask(site, path)
        assert answer.status == 404
        assert place.strip("/") not in f"{answer.headers}{answer.text}"


@pytest.mark.parametrize("asked", ["_scheme=x&_external=1", "endpoint=x", "_anchor=y", "_method=POST", "thing=%ff"])
def test_what_nobody_asks_for_changes_nothing(site: Site, place: str, cookie: str, asked: str) -> None:
    """Parameters that the page does not have are left alone."""
    answer = ask(site, f"{place}?{asked}", cookie=cookie)
    assert answer.status == 200
    assert site.faults == []
