"""What the clients really send, held against openapi.yaml."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import jsonschema
import pytest

from hsm_enroll.backend_api.attestation import Evidence
from hsm_enroll.backend_api.client import EnrollmentClient
from hsm_enroll.backend_api.proofs import ProofClient
from hsm_enroll.operator.api import OperatorClient
from hsm_enroll.operator.invites import MOST_IN_A_REQUEST, NewInvite, NewReplacement
from hsm_enroll.operator.manifest import ListedChip
from hsm_enroll.operator.tpms import TpmClient
from hsm_enroll.secret import Secret
from hsm_enroll.x509 import jws
from tests.operator.api.conftest import authority, backend, operator_credentials  # noqa: F401 - fixtures, by their names
from tests.operator.api.stand_in import Backend
from tests.support.authority import Authority
from tests.support.https_server import https_server, response
from tests.support.openapi import SPEC
from tests.support.software_signer import SoftwareSigner

SAMPLES = Path(__file__).parent / "samples"
ENROLLMENT: dict[str, str] = json.loads((SAMPLES / "enroll-request.json").read_text("utf-8"))
CODE: str = json.loads((SAMPLES / "invite-codes.json").read_text("utf-8"))["valid"][0]["written"]
# For clients of the original article and those that speak EST; this project's own asks for /v1/certificates.
SENT_BY_NONE = {
    ("POST", "/getCertificate"),
    ("GET", "/.well-known/est/cacerts"),
    ("GET", "/.well-known/est/csrattrs"),
    ("POST", "/.well-known/est/simpleenroll"),
    ("POST", "/.well-known/est/simplereenroll"),
}


@dataclass(frozen=True)
class Sent:
    """A request as it arrived; names of headers in lower case."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: Any


def parsed(raw: bytes) -> Sent:
    """Read an HTTP/1.1 request."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    read = bytes.decode if headers.get("content-type") == jws.MEDIA_TYPE else json.loads
    return Sent(method, parts.path, parse_qsl(parts.query, True, True), headers, read(body) if body else None)


def at(pointer: str) -> Any:
    """Return what a reference of the contract leads to."""
    found = SPEC
    for step in pointer.removeprefix("#/").split("/"):
        found = found[step]
    return found


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part of the contract, wherever it stands."""
    return resolved(at(part["$ref"])) if "$ref" in part else part


def validate(value: object, schema: dict[str, Any]) -> None:
    """Raise jsonschema's ValidationError if a value is not what a schema of the contract says."""
    jsonschema.Draft202012Validator({**SPEC, **schema}).validate(value)


def assert_in_contract(sent: Sent) -> None:
    """Assert that a request is one of the contract's, in every part."""
    operation = SPEC["paths"][sent.path][sent.method.lower()]
    parameters = {one["name"]: one for one in map(resolved, operation.get("parameters", []))}
    given = dict(sent.query)
    assert len(given) == len(sent.query)
    assert given.keys() <= parameters.keys()
    assert {name for name, one in parameters.items() if one.get("required")} <= given.keys()
    for name, value in given.items():
        schema = resolved(parameters[name]["schema"])
        validate(int(value) if schema.get("type") == "integer" else value, schema)
    if "requestBody" in operation:
        content = resolved(operation["requestBody"])["content"]
        validate(sent.body, content[sent.headers["content-type"]]["schema"])
    else:
        assert sent.body is None
        assert "content-type" not in sent.headers
    taken = {kind for answer in operation["responses"].values() for kind in resolved(answer).get("content", {})}
    assert taken <= set(sent.headers["accept"].split(", "))
    schemes = {scheme for requirement in operation.get("security", [{}]) for scheme in requirement or {"none"}}
    assert scheme_of(sent) in schemes


def scheme_of(sent: Sent) -> str:
    """Return the contract's name for how a request is authorized."""
    authorization = sent.headers.get("authorization", "none").split(" ")[0]
    return {"none": "none", "Bearer": "code", "AWS4-HMAC-SHA256": "iam"}[authorization]


class _Shown(NamedTuple):
    """A TPM as it presents itself."""

    ek_certificate: str | None = "PEM"
    ek_public: bytes = b"ek"
    ak_public: bytes = b"ak"
    others: int = 0


class _Stated(NamedTuple):
    """What a TPM states of a key."""

    key_public: bytes = b"key"
    certify_info: bytes = b"info"
    signature: bytes = b"signature"


@pytest.fixture
def from_devices(authority: Authority) -> list[Sent]:  # noqa: F811 - the fixture
    """What a device's clients send: with a code, without one, and signed with the device's key."""
    issued, recovered = (
        response(status, (SAMPLES / "enroll-answer.json").read_text("utf-8")) for status in ("201 Created", "200 OK")
    )
    healthy = response("200 OK", (SAMPLES / "health-answer.json").read_text("utf-8"))
    invite = response("200 OK", (SAMPLES / "invite-answer.json").read_text("utf-8"))
    done = response("204 No Content", "")
    signer = SoftwareSigner()

    def prove(url: str, payload: bytes) -> str:
        return jws.build(signer, url, payload, time.time(), secrets.token_urlsafe(16))

    challenge = json.dumps(
        {"sessionId": "s", "credentialBlob": "YQ==", "encryptedSecret": "YQ==", "nonce": "AA" * 21 + "A="}
    )
    challenged, evidence = response("201 Created", challenge), Evidence("session", Secret("c2VjcmV0"), _Stated())
    answers = (issued, invite, healthy, challenged, issued, challenged, issued, done, recovered, done)
    with https_server(authority, *answers) as server:
        with_code, without = (
            EnrollmentClient(server.url, code=code, ca_file=authority.certificate) for code in (Secret(CODE), None)
        )
        with_code.enroll(ENROLLMENT["csr"], ENROLLMENT["thingName"])
        with_code.terms()
        without.terms()
        without.attest(_Shown(), ENROLLMENT["thingName"])
        without.enroll(ENROLLMENT["csr"], ENROLLMENT["thingName"], None, evidence)
        own = ProofClient(server.url, ca_file=authority.certificate)
        own.attest(_Shown(None), ENROLLMENT["thingName"], prove)
        own.renew(ENROLLMENT["csr"], ENROLLMENT["thingName"], prove, None, evidence)
        own.commit(prove)
        own.recover(prove)
        own.retire(prove)
        return [parsed(request) for request in server.requests]


@pytest.fixture
def from_operators(
    operator_credentials: None,  # noqa: ARG001, F811 - the environment comes first
    backend: Backend,  # noqa: F811 - the fixture
    authority: Authority,  # noqa: F811 - the fixture
) -> list[Sent]:
    """What an operator's client sends: each of its methods, with every option, and on to a second page."""
    client = OperatorClient(backend.url, authority.certificate)
    tpms = TpmClient(backend.url, authority.certificate)
    backend.page = 1
    backend.token = "1790000000."
    backend.add_thing("press-17")
    backend.add_thing("a" * 64)
    backend.sweeps = [{"checked": 1, "disabled": [], "foreign": 0}] * 2
    backend.rebuilds = [{"examined": 1, "restored": [], "left": []}] * 2
    every_option = NewInvite(
        "press-*",
        uses=1_000_000,
        ttl_seconds=31_536_000,
        ek_sha256="AB" * 32,
        existing_thing=True,
        deactivate_existing=True,
        require_tpm=True,
        reuse_tpm=True,
    )
    made = client.create_invites([every_option, NewInvite("press-17", ttl_seconds=60), NewInvite("*")])
    client.create_replacement(NewReplacement("press-17"))
    client.create_replacement(NewReplacement("press-17", 60, "AB" * 32, require_tpm=True, reuse_tpm=True))
    client.create_invites([NewInvite(f"press-{number}") for number in range(MOST_IN_A_REQUEST)])
    calls: list[Callable[[], object]] = [
        lambda: list(client.list_invites()),
        lambda: list(client.list_invites("open", "press-", 5)),
        lambda: client.revoke_invite(made[0].id),
        lambda: list(client.list_things()),
        lambda: list(client.list_things("issued", "press-", 5000)),
        lambda: client.find_things([f"press:{number}" for number in range(250)]),
        lambda: client.show_thing("press-17"),
        lambda: client.revoke_thing("press-17"),
        lambda: client.revoke_thing("press-17", all_certificates=True),
        lambda: list(client.look_for_orphans()),
        lambda: client.sweep_part("p:1"),
        lambda: list(client.sweep()),
        lambda: list(client.rebuild(look_only=True, existing_things=False)),
        lambda: list(client.rebuild(look_only=False, existing_things=True)),
        lambda: list(client.list_things(attested="no")),
        lambda: tpms.import_eks([ListedChip(f"{number:064x}", "x" * 64) for number in range(100)]),
        lambda: list(tpms.list_eks("x", 2)),
        lambda: tpms.forget_ek("0" * 64),
        lambda: tpms.add_authority("PEM", "0" * 64),
        tpms.list_authorities,
        lambda: tpms.remove_authority("0" * 64),
    ]
    for call in calls:
        call()
    return [Sent(one.method, one.path, list(one.query.items()), one.headers, one.body) for one in backend.received]


def test_every_request_of_the_clients_is_in_the_contract(from_devices: list[Sent], from_operators: list[Sent]) -> None:
    """Method, path, parameters, body, types and authorization are what openapi.yaml says."""
    assert [scheme_of(sent) for sent in from_devices] == ["code", "code", *["none"] * 8]
    assert {scheme_of(sent) for sent in from_operators} == {"iam"}
    for sent in from_devices + from_operators:
        assert_in_contract(sent)


def test_the_clients_send_every_operation_of_the_contract(from_devices: list[Sent], from_operators: list[Sent]) -> None:
    """All but those that are listed as sent by none."""
    operations = {(method.upper(), path) for path, methods in SPEC["paths"].items() for method in methods}
    assert {(sent.method, sent.path) for sent in from_devices + from_operators} == operations - SENT_BY_NONE


def test_pages_are_followed_by_what_the_contract_calls_next(from_operators: list[Sent]) -> None:
    """A second page is asked for in the query of a GET and in the body of a POST."""
    in_query = {sent.path for sent in from_operators if dict(sent.query).get("next")}
    in_body = {sent.path for sent in from_operators if sent.method == "POST" and sent.body.get("next")}
    assert in_query == {"/v1/operator/invites", "/v1/operator/fleet", "/v1/operator/eks"}
    assert in_body == {"/v1/operator/sweep", "/v1/operator/rebuild"}


BROKEN: dict[str, Callable[[Sent], Sent]] = {
    "an unknown member": lambda sent: replace(sent, body={**sent.body, "more": 1}),
    "no body": lambda sent: replace(sent, body=None),
    "an unknown parameter": lambda sent: replace(sent, query=[("more", "1")]),
    "another type": lambda sent: replace(sent, headers={**sent.headers, "content-type": "text/plain"}),
    "another path": lambda sent: replace(sent, path="/v1/certificate"),
    "another method": lambda sent: replace(sent, method="PUT"),
    "another authorization": lambda sent: replace(sent, headers={**sent.headers, "authorization": "Basic eDp5"}),
    "answers it does not take": lambda sent: replace(sent, headers={**sent.headers, "accept": "text/html"}),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_the_check_notices_what_is_not_in_the_contract(from_devices: list[Sent], fault: str) -> None:
    """A request with one thing changed does not pass for one of the contract's."""
    with pytest.raises((AssertionError, KeyError, jsonschema.ValidationError)):
        assert_in_contract(BROKEN[fault](from_devices[0]))
