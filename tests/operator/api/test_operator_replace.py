"""``fleet replace``: an invite for a Thing that is enrolled, and what is said about the key that it has."""

from __future__ import annotations

import pytest

from tests.operator.api.running import Run
from tests.operator.api.stand_in import Backend, json_reply, problem


def test_an_invite_that_replaces_a_key_is_one_line(run: Run, backend: Backend) -> None:
    """stdout holds the invite alone; stderr says what happens to the present key, and when."""
    backend.add_thing("gateway-17")
    result = run("fleet", "replace", "gateway-17", "--ttl", "7d")
    assert (result.status, result.out) == (0, f"{backend.url}/#{backend.codes[0]}\n")
    (request,) = backend.received
    assert (request.method, request.path) == ("POST", "/v1/operator/replacements")
    assert request.body == {"thing": "gateway-17", "ttlSeconds": 604800}
    said = " ".join(result.err.split())
    assert ": 1 use, valid until 2026-11-24T10:00:00Z" in said
    assert "gateway-17's present key works until this invite is used; then its certificate is deleted" in said
    assert "warning" not in said


def test_it_has_the_document_of_an_invite(run: Run, backend: Backend) -> None:
    """With --json, the same members as invite create prints, and the Thing's status."""
    backend.add_thing("gateway-17")
    result = run("fleet", "replace", "gateway-17", "--json")
    (invite_id,) = backend.invites
    assert result.document == {
        "invite": f"{backend.url}/#{backend.codes[0]}",
        "thing": "gateway-17",
        "uses": 1,
        "expires": "2026-11-24T10:00:00Z",
        "id": invite_id,
        "thingStatus": "issued",
    }


def test_the_list_tells_it_from_an_invite_for_a_new_thing(run: Run, backend: Backend) -> None:
    """A note behind the name, and replacesKey in JSON."""
    backend.add_thing("gateway-17")
    run("fleet", "replace", "gateway-17")
    run("invite", "create", "--thing", "gateway-18")
    _, replacement, other = run("invite", "list").out.splitlines()
    assert replacement.endswith("  gateway-17  (replacement)")
    assert other.endswith("  gateway-18")
    listed = run("invite", "list", "--json").document["invites"]
    assert [one["replacesKey"] for one in listed] == [True, False]


def test_of_a_revoked_thing_it_says_so(run: Run, backend: Backend) -> None:
    """It has no key that works, so none is retired: the invite enrolls it again."""
    backend.add_thing("gateway-17", "revoked")
    said = " ".join(run("fleet", "replace", "gateway-17").err.split())
    assert "gateway-17 is revoked; with this invite it is enrolled again" in said
    assert "present key" not in said


def test_a_thing_that_is_not_there_has_no_key_to_replace(run: Run, backend: Backend) -> None:
    """Exit 31, with the command that lists those that are."""
    result = run("fleet", "replace", "gateway-17", "--json")
    assert (result.status, backend.codes) == (31, [])
    assert "thing-unknown" in result.document["error"]["message"]
    assert "fleet list" in result.document["error"]["hint"]


def test_whoever_may_only_invite_is_refused(run: Run, backend: Backend) -> None:
    """Exit 31, with the permission that is missing, where IAM does not admit the caller to this route."""
    backend.replies = {0: json_reply(403, {"message": "Forbidden"})}
    backend.add_thing("gateway-17")
    result = run("fleet", "replace", "gateway-17", "--json")
    assert (result.status, backend.codes) == (31, [])
    assert "execute-api:Invoke" in result.document["error"]["hint"]


@pytest.mark.parametrize("lost", [True, False])
def test_a_replacement_is_not_asked_for_again_where_it_may_exist(run: Run, backend: Backend, lost: bool) -> None:
    """D16: after 503 nobody knows whether it was made; after 429 it was not."""
    backend.replies = {0: problem(503, "aws-unavailable") if lost else problem(429, "throttled")}
    backend.add_thing("gateway-17")
    result = run("fleet", "replace", "gateway-17")
    assert (result.status == 0, len(backend.received)) == ((False, 1) if lost else (True, 2))


@pytest.mark.parametrize(
    "arguments", [["line3-*"], ["*"], [""], ["a b"], ["gateway-17", "--ttl", "soon"], ["gateway-17", "--ttl", "366d"]]
)
def test_what_cannot_be_replaced_is_wrong_usage(run: Run, backend: Backend, arguments: list[str]) -> None:
    """A prefix, no name at all, a time that is none or too long: exit 2, and nothing is asked."""
    result = run("fleet", "replace", *arguments)
    assert (result.status, backend.received) == (2, [])


def test_it_can_be_drawn(run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a QR code below the invite, as invite create does."""
    monkeypatch.setenv("COLUMNS", "120")
    backend.add_thing("gateway-17")
    drawn = run("fleet", "replace", "gateway-17", "--qr").out
    assert drawn.startswith(f"{backend.url}/#{backend.codes[0]}\n")
    assert len(drawn.splitlines()) > 10
