"""How a device asks for a challenge, and sends what its TPM says."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

import pytest

from hsm_enroll.backend_api.answer import Problem
from hsm_enroll.backend_api.attestation import Challenge, Evidence
from hsm_enroll.backend_api.client import EnrollmentClient
from hsm_enroll.backend_api.hints import hint
from hsm_enroll.backend_api.proofs import ProofClient
from hsm_enroll.errors import BackendRefusedError, UnexpectedResponseError
from hsm_enroll.secret import Secret
from tests.client.backend_api.patient import Waits
from tests.support.authority import Authority
from tests.support.https_server import HttpsServer, https_server, response
from tests.support.openapi import SPEC

_ANSWER = {
    "sessionId": "Ab-_9",
    "credentialBlob": base64.b64encode(b"blob").decode(),
    "encryptedSecret": base64.b64encode(b"encrypted").decode(),
    "nonce": base64.b64encode(b"n" * 32).decode(),
    "thingName": "gateway-17",
}
_CHALLENGE = Challenge("Ab-_9", b"blob", b"encrypted", b"n" * 32, "gateway-17")
_BUSY = response("503 Service Unavailable", "", "Retry-After: 1")


class _Shown(NamedTuple):
    ek_certificate: str | None = "PEM"
    ek_public: bytes = b"ek"
    ak_public: bytes = b"ak"
    others: int = 0


class _Stated(NamedTuple):
    key_public: bytes = b"key"
    certify_info: bytes = b"info"
    signature: bytes = b"signature"


_EVIDENCE = Evidence("Ab-_9", Secret("c2VjcmV0"), _Stated())


def _created(**changes: object) -> bytes:
    members = {name: value for name, value in {**_ANSWER, **changes}.items() if value is not None}
    return response("201 Created", json.dumps(members))


def _client(server: HttpsServer, authority: Authority, code: str | None = "THE-CODE") -> EnrollmentClient:
    secret, waits = None if code is None else Secret(code), Waits()
    return EnrollmentClient(
        server.url, code=secret, ca_file=authority.certificate, sleep=waits.append, clock=waits.clock
    )


def _body(request: bytes) -> Any:
    return json.loads(request.partition(b"\r\n\r\n")[2])


def test_a_tpm_asks_for_a_challenge_with_the_invites_code(authority: Authority) -> None:
    """It presents itself in base64, names the Thing if that is known, and waits while the API is busy."""
    with https_server(authority, _BUSY, _created()) as server:
        assert _client(server, authority).attest(_Shown(), "gateway-17") == _CHALLENGE
    first, second = server.requests
    assert second.startswith(b"POST /v1/attestations HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer THE-CODE\r\n" in second
    assert _body(first) == _body(second)
    assert _body(second) == {"ekCertificate": "PEM", "ekPublic": "ZWs=", "akPublic": "YWs=", "thingName": "gateway-17"}


def test_the_tpm_itself_may_say_which_thing_it_is(authority: Authority) -> None:
    """Without a code, a name and a certificate there is only the TPM, and the answer names the Thing."""
    with https_server(authority, _created()) as server:
        client = _client(server, authority, code=None)
        assert client.attest(_Shown(ek_certificate=None), None).thing_name == "gateway-17"
    [request] = server.requests
    assert b"Authorization" not in request
    assert _body(request) == {"ekPublic": "ZWs=", "akPublic": "YWs="}


def test_the_current_key_proves_who_asks_for_a_renewals_challenge(authority: Authority) -> None:
    """Each try is a proof of its own of the request, which does not name the Thing: the key does."""
    signed: list[tuple[str, bytes]] = []

    def prove(url: str, payload: bytes) -> str:
        signed.append((url, payload))
        return f"proof-{len(signed)}"

    with https_server(authority, _BUSY, _created(thingName=None)) as server:
        waits = Waits()
        client = ProofClient(server.url, ca_file=authority.certificate, sleep=waits.append, clock=waits.clock)
        assert client.attest(_Shown(), "gateway-17", prove).thing_name is None
    assert [request.rpartition(b"\r\n")[2] for request in server.requests] == [b"proof-1", b"proof-2"]
    url, payload = signed[1]
    assert url == f"{server.url}/v1/attestations"
    assert json.loads(payload) == {"ekCertificate": "PEM", "ekPublic": "ZWs=", "akPublic": "YWs="}


@pytest.mark.parametrize(
    "changes",
    [
        {"sessionId": None},
        {"sessionId": "a/b"},
        {"sessionId": 7},
        {"credentialBlob": ""},
        {"credentialBlob": "*"},
        {"encryptedSecret": None},
        {"nonce": "bm9uY2U="},
        {"thingName": "a/b"},
        {"thingName": "gateway-18"},
    ],
    ids=str,
)
def test_d17_what_is_no_challenge_is_not_given_to_the_tpm(authority: Authority, changes: dict[str, object]) -> None:
    """D17: a member that is missing or has the wrong form, and a challenge for another Thing, are refused."""
    with https_server(authority, _created(**changes)) as server, pytest.raises(UnexpectedResponseError) as caught:
        _client(server, authority).attest(_Shown(), "gateway-17")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
def test_only_201_is_a_challenge(authority: Authority, status: str) -> None:
    """D17: a portal that answers everything with 200 challenges nobody."""
    answer = response(status, json.dumps(_ANSWER))
    with https_server(authority, answer) as server, pytest.raises(UnexpectedResponseError):
        _client(server, authority).attest(_Shown(), None)


def test_a_backend_without_attestations_is_named(authority: Authority) -> None:
    """API Gateway answers for a route that is not there; the operator has to update the backend."""
    answer = response("404 Not Found", '{"message": "Not Found"}')
    with https_server(authority, answer) as server, pytest.raises(UnexpectedResponseError) as caught:
        _client(server, authority).attest(_Shown(), None)
    assert "has no /v1/attestations" in caught.value.message
    assert "earlier release" in caught.value.hint


_ISSUED = {
    "certificatePem": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "certificateId": "0a" * 32,
    "thingName": "gateway-17",
    "mqttEndpoint": "iot.example",
    "mqttPort": 8883,
    "attested": True,
}
_MEMBERS = {
    "sessionId": "Ab-_9",
    "secret": "c2VjcmV0",
    "keyPublic": "a2V5",
    "certifyInfo": "aW5mbw==",
    "signature": "c2lnbmF0dXJl",
}


def test_evidence_goes_with_the_request_for_a_certificate(authority: Authority) -> None:
    """Also when the request is repeated: the API knows it again."""
    with https_server(authority, _BUSY, response("201 Created", json.dumps(_ISSUED))) as server:
        assert _client(server, authority).enroll("CSR", "gateway-17", None, _EVIDENCE).attested
    for request in server.requests:
        assert _body(request) == {"csr": "CSR", "thingName": "gateway-17", "evidence": _MEMBERS}


def test_evidence_is_part_of_what_a_renewal_signs(authority: Authority) -> None:
    """Nobody can put other evidence in its place."""
    signed: list[bytes] = []

    def prove(_: str, payload: bytes) -> str:
        signed.append(payload)
        return "proof"

    with https_server(authority, response("201 Created", json.dumps(_ISSUED))) as server:
        client = ProofClient(server.url, ca_file=authority.certificate)
        assert client.renew("CSR", "gateway-17", prove, None, _EVIDENCE).attested
    assert json.loads(signed[0]) == {"csr": "CSR", "evidence": _MEMBERS}


def test_the_secret_is_not_shown() -> None:
    """D4: what only the TPM could decrypt appears in no representation of the evidence."""
    assert "c2VjcmV0" not in repr(_EVIDENCE)


def _codes() -> list[str]:
    responses = SPEC["components"]["responses"]
    refused, bad = (
        responses[name]["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"]
        for name in ("AttestationRefused", "BadRequest")
    )
    return [*refused, *(code for code in bad if code.startswith(("attestation-", "ek-certificate-"))), "tpm-enrolled"]


@pytest.mark.parametrize("code", _codes())
def test_each_refusal_of_a_tpm_says_what_to_do(authority: Authority, code: str) -> None:
    """Every code of the contract has a hint of its own, and keeps its code as data."""
    advice = hint(403, Problem(code, "", ""))
    problem = response(
        "403 Forbidden", json.dumps({"code": code, "detail": "No."}), content_type="application/problem+json"
    )
    with https_server(authority, problem) as server, pytest.raises(BackendRefusedError) as caught:
        _client(server, authority).attest(_Shown(), None)
    assert (caught.value.problem_code, caught.value.hint) == (code, advice)
    assert advice
