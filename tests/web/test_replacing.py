"""Replacing a Thing's key in a browser: what will happen is said first, and the invite for it is shown once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.operator.api.stand_in import problem
from tests.web.site import Site, alert, hidden, visit

_PATH = "/v1/operator/replacements"


def _form(site: Site, thing: str) -> dict[str, str]:
    """Return what the browser sends for a Thing where nothing is changed in the form."""
    return {**hidden(visit(site, f"replace?thing={thing}")), "ttl": "24h"}


def _created(site: Site) -> int:
    return sum(request.path == _PATH for request in site.backend.received)


def test_a_key_is_replaced_in_two_steps(site: Site) -> None:
    """A Thing's page leads to what will happen, and its form to the invite as a label, which is shown once."""
    site.backend.add_thing("gateway-30")
    before, place = _created(site), urlsplit(site.base).path
    assert f'<a class="button" href="{place}replace?thing=gateway-30">' in visit(site, "things/gateway-30").text
    question = visit(site, "replace?thing=gateway-30&ttl=24h").text
    assert "<h1>Replace the key of gateway-30?</h1>" in question
    assert "Nothing changes until it is used. At that moment the present key is retired" in question
    assert _created(site) == before
    sent = visit(site, "replace", _form(site, "gateway-30") | {"ttl": "7d", "require-tpm": "on"})
    request = site.backend.received[-1]
    assert (request.path, request.body) == (_PATH, {"thing": "gateway-30", "ttlSeconds": 604800, "requireTpm": True})
    assert sent.status == 303
    labels = sent.headers["Location"].removeprefix(place)
    shown = visit(site, labels).text
    assert f"{site.backend.url}/#{site.backend.codes[-1]}" in shown
    assert "stays in use until this invite is used" in shown
    assert "hsm-enroll init --new-key INVITE" in shown
    assert "the API refuses another key" not in shown
    assert site.backend.codes[-1] not in visit(site, labels).text
    assert _created(site) - before == 1


def test_a_replacement_that_is_sent_twice_is_one(site: Site) -> None:
    """A double click leads to the same page twice; the form loaded again is another wish."""
    site.backend.add_thing("gateway-32")
    form, before = _form(site, "gateway-32"), _created(site)
    with ThreadPoolExecutor() as clicks:
        answers = [*clicks.map(lambda _: visit(site, "replace", form), range(2))]
    assert len({answer.headers["Location"] for answer in answers}) == _created(site) - before == 1
    visit(site, "replace", _form(site, "gateway-32"))
    assert _created(site) - before == 2


def test_a_revoked_thing_has_no_key_to_retire(site: Site) -> None:
    """Its invite enrolls it again, and that is what the page says."""
    site.backend.add_thing("gateway-33", "revoked")
    said = visit(site, "replace?thing=gateway-33").text
    assert "This Thing is revoked. " in said
    assert "the present key is retired" not in said


@pytest.mark.parametrize("status", ["claimed", "issued"])
def test_an_invite_for_an_enrolled_thing_leads_here(site: Site, status: str) -> None:
    """It is created, with a warning: it cannot be used while the Thing has its key, which a link offers to replace.

    The link opens a new tab: without this page, the invites would be lost before they are printed.
    """
    site.backend.add_thing("gateway-34")
    site.backend.things["gateway-34"]["status"] = status
    form = {"things": "gateway-34\ngateway-35", "ttl": "24h", "uses": "1"}
    place = urlsplit(site.base).path
    labels = visit(site, "invites/new", form).headers["Location"].removeprefix(place)
    warning = visit(site, labels).text.partition('class="warning"')[2].partition("</div>")[0]
    assert "the API refuses another key for them" in warning
    assert f'<a href="{place}replace?thing=gateway-34" target="_blank">gateway-34</a>' in warning
    assert "gateway-35" not in warning


@pytest.mark.parametrize(
    ("asked", "form", "said"),
    [
        ("replace?thing=gone", None, "(thing-unknown)"),
        ("replace", None, "thing is not a valid Thing name"),
        ("replace?thing=line3-*", None, "without a *."),
        ("replace", {"thing": "gone"}, "(thing-unknown)"),
        ("replace", {"thing": "a b"}, "thing is not a valid Thing name"),
        ("replace", {"ttl": "2y"}, "ttl is not a valid time"),
    ],
    ids=["unknown", "no name", "prefix", "gone since", "invalid name", "invalid time"],
)
def test_what_cannot_be_replaced_is_an_error(site: Site, asked: str, form: dict[str, str] | None, said: str) -> None:
    """No such Thing, no name, or a lifetime that the page does not offer: the error is shown, and no invite created."""
    site.backend.add_thing("gateway-36")
    invites = [*site.backend.invites]
    answer = visit(site, asked, None if form is None else _form(site, "gateway-36") | form)
    assert said in alert(answer)
    assert [*site.backend.invites] == invites


def test_an_answer_that_was_lost_is_told(site: Site) -> None:
    """The invite may exist all the same: it is not asked for again, and the page says where to look."""
    site.backend.add_thing("gateway-37")
    form, before = _form(site, "gateway-37"), _created(site)
    site.answer_next(*[problem(500, "internal")] * 2)
    answer = visit(site, "replace", form)
    assert (answer.status, _created(site) - before) == (503, 1)
    assert "invites may have been made, and their codes are lost" in alert(answer)
    site.backend.replies.clear()
