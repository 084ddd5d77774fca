"""``GET /v1/invite``: what a technician need not type, told to whoever has the code and to nobody else."""

from __future__ import annotations

import json

import pytest

from enrollment_backend import invites
from tests.contract.test_backend_samples import assert_conforms
from tests.support.csr_factory import THING, pem_of, request
from tests.support.deployment import Answer, Deployment, aws_answer, deployed, event


def show(backend: Deployment, code: str | None) -> Answer:
    """Ask what an invite says."""
    return backend.send(event("GET", "/v1/invite", code=code, content_type=None))


@pytest.mark.parametrize("thing", [THING, "gw-*", "*"])
def test_an_invite_says_which_thing_it_is_for(backend: Deployment, thing: str) -> None:
    """Whoever has the code learns the Thing's name, or what it begins with, and until when the invite is valid."""
    code = backend.invite(thing, ttlSeconds=3600)
    [listed] = backend.operate("GET", "invites").json["invites"]
    backend.calls.clear()
    answer = show(backend, code)
    assert answer.status == 200
    assert answer.json == {"thing": thing, "usesLeft": 1, "expires": listed["expires"], "attestation": "off"}
    assert_conforms(answer.json, "ShownInvite")
    assert backend.calls == ["BatchGetItem"]


@pytest.mark.parametrize("policy", ["off", "prefer", "require"])
def test_an_invite_says_whether_the_key_has_to_be_in_a_tpm(policy: str) -> None:
    """A device learns before it makes a key what this invite takes: the deployment's policy, or more than that."""
    with deployed({"ATTESTATION": policy}) as backend:
        health = backend.send(event("GET", "/v1/health", content_type=None)).json
        assert (health["attestation"], show(backend, backend.invite(THING)).json["attestation"]) == (policy, policy)
        for invite in ({"ekSha256": "0f" * 32}, {"requireTpm": True}):
            assert show(backend, backend.invite(THING, **invite)).json["attestation"] == "require"


def test_looking_uses_nothing(backend: Deployment) -> None:
    """However often it was looked at, the invite enrolls its device."""
    code = backend.invite(THING)
    for _ in range(3):
        assert show(backend, code).status == 200
    assert backend.enroll(pem_of(request()), THING, code).status == 201


def test_an_invite_that_is_used_up_is_shown_to_who_comes_back(backend: Deployment) -> None:
    """A device whose answer was lost still learns its name from the invite that it has used."""
    code = backend.invite(THING)
    assert backend.enroll(pem_of(request()), THING, code).status == 201
    assert (show(backend, code).json["thing"], show(backend, code).json["usesLeft"]) == (THING, 0)


@pytest.mark.parametrize("fault", ["unknown", "revoked", "expired", "look-alike", "no code"])
def test_s12_what_is_no_valid_invite_tells_nothing(backend: Deployment, fault: str) -> None:
    """S12: unknown, revoked and expired invites get one and the same refusal, which the log tells apart."""
    code = backend.invite(THING, ttlSeconds=60)
    if fault == "revoked":
        [listed] = backend.operate("GET", "invites").json["invites"]
        backend.operate("DELETE", "invites", id=listed["id"])
    if fault == "expired":
        backend.clock.sleep(61)
    if fault == "unknown":
        code = invites.create_code()
    if fault == "look-alike":
        code = code[:-1] + ("0" if code[-1] != "0" else "2")
    if fault == "no code":
        code = "hello"
    answer = show(backend, code)
    assert (answer.status, answer.json["code"]) == (401, "invite-invalid")
    assert THING not in answer.body
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("mode", ["invite", "open"])
def test_without_a_code_there_is_nothing_to_show(mode: str) -> None:
    """S12: a request without a code is refused before AWS is asked, in an open deployment too."""
    with deployed({"AUTH_MODE": mode}) as backend:
        assert backend.refused(show(backend, None), 401, "invite-required")


@pytest.mark.parametrize(
    ("status", "error_type", "code"),
    [(400, "ThrottlingException", "throttled"), (500, "InternalServerError", "aws-unavailable")],
)
def test_s15_a_table_that_does_not_answer_is_try_later(
    backend: Deployment, status: int, error_type: str, code: str
) -> None:
    """S15: what the ledger's table refuses is a fault that passes, and the invite stays as it is."""
    invite = backend.invite(THING)
    backend.inject("BatchGetItem", lambda _: aws_answer(status, json.dumps({"__type": error_type})))
    assert show(backend, invite).json["code"] == code
