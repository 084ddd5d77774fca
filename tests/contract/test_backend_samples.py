"""The samples both sides parse, as the backend understands and produces them; and openapi.yaml beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.backend.fleet import Device
from tests.support.csr_factory import THING, ecdsa_sha256, forged, pem, pem_of, request
from tests.support.deployment import POLICY, Answer, Deployment, aws_answer, deployed, event
from tests.support.openapi import SPEC

SAMPLES = Path(__file__).parent / "samples"
REQUEST: dict[str, str] = json.loads((SAMPLES / "enroll-request.json").read_text("utf-8"))


def sample(name: str) -> dict[str, Any]:
    """Return a sample, parsed."""
    document: dict[str, Any] = json.loads((SAMPLES / name).read_text("utf-8"))
    return document


def assert_conforms(document: object, schema: str) -> None:
    """Assert that a document is what a schema of openapi.yaml says."""
    jsonschema.Draft202012Validator({**SPEC, "$ref": f"#/components/schemas/{schema}"}).validate(document)


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """An open deployment."""
    with deployed() as deployment:
        yield deployment


def test_the_sample_request_is_accepted_and_answered_like_the_sample_answer(backend: Deployment) -> None:
    """The answer has the sample's fields in the sample's types, and the values that are not new each time."""
    answer = backend.post("/v1/certificates", REQUEST)
    expected = sample("enroll-answer.json")
    assert answer.status == 201
    assert {name: type(value) for name, value in answer.json.items()} == {
        name: type(value) for name, value in expected.items()
    }
    for name in ("thingName", "mqttEndpoint", "mqttPort", "attested"):
        assert answer.json[name] == expected[name]
    for document in (answer.json, expected):
        assert_conforms(document, "Issued")
    assert_conforms(REQUEST, "EnrollmentRequest")


def test_the_sample_answer_belongs_to_the_sample_request() -> None:
    """The certificate is for the key in the CSR, so that a client's own check holds for the pair."""
    certificate = x509.load_pem_x509_certificate(sample("enroll-answer.json")["certificatePem"].encode("ascii"))
    csr = x509.load_pem_x509_csr(REQUEST["csr"].encode("ascii"))
    assert certificate.public_key() == csr.public_key()


def test_health_answers_like_its_sample(backend: Deployment) -> None:
    """Same fields; the version is the backend's own."""
    answer = backend.send(event("GET", "/v1/health"))
    assert answer.json.keys() == sample("health-answer.json").keys()
    for document in (answer.json, sample("health-answer.json")):
        assert_conforms(document, "Health")


def test_an_invite_is_shown_like_its_sample(backend: Deployment) -> None:
    """Same fields, of the same form."""
    expected = sample("invite-answer.json")
    answer = backend.send(event("GET", "/v1/invite", code=backend.invite(expected["thing"])))
    assert answer.json.keys() == expected.keys()
    assert (answer.json["thing"], answer.json["attestation"]) == (expected["thing"], expected["attestation"])
    for document in (answer.json, expected):
        assert_conforms(document, "ShownInvite")


def changed(**changes: str) -> Callable[[Deployment], Answer]:
    """Return a situation: the sample request with something changed."""
    return lambda backend: backend.post("/v1/certificates", REQUEST | changes)


def while_aws(operation: str, status: int, error_type: str) -> Callable[[Deployment], Answer]:
    """Return a situation: AWS IoT answers an operation with an error."""

    def situation(backend: Deployment) -> Answer:
        backend.inject(operation, lambda _: aws_answer(status, "{}", error_type))
        return backend.post("/v1/certificates", REQUEST)

    return situation


def thing_exists(backend: Deployment) -> Answer:
    """Somebody else's Thing has the name."""
    backend.iot.create_thing(thingName=REQUEST["thingName"])
    return backend.post("/v1/certificates", REQUEST)


def thing_enrolled(backend: Deployment) -> Answer:
    """The Thing has another key."""
    backend.enroll(pem_of(request(ec.generate_private_key(ec.SECP256R1()), REQUEST["thingName"])), REQUEST["thingName"])
    return backend.post("/v1/certificates", REQUEST)


def key_enrolled(backend: Deployment) -> Answer:
    """The key is another Thing's."""
    backend.enroll(pem_of(request(None, "another")), "another")
    return backend.enroll(pem_of(request()), THING)


def thing_revoked(backend: Deployment) -> Answer:
    """The Thing was revoked, and the same request comes again."""
    backend.post("/v1/certificates", REQUEST)
    backend.operate("DELETE", "fleet", thing=REQUEST["thingName"])
    return backend.post("/v1/certificates", REQUEST)


def in_progress(backend: Deployment) -> Answer:
    """The same request comes while the first one is at work."""
    answers: list[Answer] = []

    def again(phase: str, operation: str) -> None:
        if (phase, operation) == ("before", "CreateThing"):
            answers.append(backend.post("/v1/certificates", REQUEST))

    backend.interrupt = again
    backend.post("/v1/certificates", REQUEST)
    return answers[0]


def queued(backend: Deployment) -> Answer:
    """More devices come at once than AWS IoT allows."""
    backend.enroll(pem_of(request(None, "another")), "another")
    backend.clock.ahead -= 60  # so that the other one's turn, and those after it, are still to come
    return backend.post("/v1/certificates", REQUEST)


def for_a_tpm(backend: Deployment) -> Answer:
    """The invite is for one TPM."""
    code = backend.invite(REQUEST["thingName"], ekSha256="0f" * 32)
    return backend.post("/v1/certificates", REQUEST, code)


def renewals_limited(backend: Deployment) -> Answer:
    """A device renews over and over."""
    device = Device(backend, THING)
    device.enroll()
    while True:
        successor = device.successor()
        answer = device.renew(successor)
        if answer.status != HTTPStatus.CREATED:
            return answer
        successor.commit()
        device = successor


SITUATIONS: dict[str, Callable[[Deployment], Answer]] = {
    "problem-not-found.json": lambda backend: backend.post("/v2/certificates", REQUEST),
    "problem-json-malformed.json": lambda backend: backend.send(event("POST", "/v1/certificates", "{")),
    "problem-field-unknown.json": changed(proof=""),
    "problem-thing-name-invalid.json": changed(thingName="a/b"),
    "problem-csr-pem-invalid.json": changed(csr="no CSR"),
    "problem-csr-signature-invalid.json": changed(csr=pem(forged(sign=lambda _: ecdsa_sha256(b""))), thingName=THING),
    "problem-csr-common-name-mismatch.json": changed(csr=pem_of(request(None, "another")), thingName=THING),
    "problem-invite-invalid.json": lambda backend: backend.post("/v1/certificates", REQUEST, "no code"),
    "problem-attestation-required.json": for_a_tpm,
    "problem-thing-exists.json": thing_exists,
    "problem-thing-enrolled.json": thing_enrolled,
    "problem-key-enrolled.json": key_enrolled,
    "problem-thing-revoked.json": thing_revoked,
    "problem-enrollment-in-progress.json": in_progress,
    "problem-throttled.json": while_aws("CreateCertificateFromCsr", 400, "ThrottlingException"),
    "problem-enrollment-queued.json": queued,
    "problem-renewals-limited.json": renewals_limited,
    "problem-aws-unavailable.json": while_aws("CreateCertificateFromCsr", 503, "ServiceUnavailableException"),
    "problem-aws-refused.json": while_aws("CreateCertificateFromCsr", 403, "AccessDeniedException"),
}

INVITES = "/v1/operator/invites"
FLEET = "/v1/operator/fleet"
OPERATOR_SITUATIONS: dict[str, tuple[str, str, Callable[[Deployment], Answer]]] = {
    "problem-operator-required.json": ("post", INVITES, lambda backend: backend.post(INVITES, {"invites": []})),
    "problem-field-invalid.json": ("delete", INVITES, lambda backend: backend.operate("DELETE", "invites")),
    "problem-invite-unknown.json": (
        "delete",
        INVITES,
        lambda backend: backend.operate("DELETE", "invites", id="f" * 16),
    ),
    "problem-thing-unknown.json": ("get", FLEET, lambda backend: backend.operate("GET", "fleet", thing="nobody")),
}


@pytest.mark.parametrize("name", OPERATOR_SITUATIONS)
def test_an_operators_problem_is_exactly_its_sample(backend: Deployment, name: str) -> None:
    """The same for the operator's routes, and the contract lists its status there."""
    method, path, situation = OPERATOR_SITUATIONS[name]
    answer = situation(backend)
    assert answer.json | {"requestId": "sample"} == sample(name)
    assert_conforms(answer.json, "Problem")
    assert str(answer.status) in SPEC["paths"][path][method]["responses"]


def test_an_operators_answers_are_what_the_contract_says(backend: Deployment) -> None:
    """Every answer of the operator's routes conforms to its schema, and so does the request."""
    wanted = {
        "invites": [{"thing": "line3-*", "uses": 3, "existingThing": True, "ekSha256": "0f" * 32}, {"thing": "a"}]
    }
    assert_conforms(wanted, "InvitesRequest")
    assert_conforms(backend.operate("POST", "invites", wanted).json, "CreatedInvites")
    assert_conforms(backend.operate("GET", "invites").json, "Invites")
    backend.post("/v1/certificates", REQUEST)
    for _ in range(2):
        assert_conforms(backend.operate("GET", "fleet").json, "Things")
        assert_conforms(backend.operate("GET", "fleet", thing=REQUEST["thingName"]).json, "OneThing")
        backend.operate("DELETE", "fleet", thing=REQUEST["thingName"])
    replacement = {"thing": REQUEST["thingName"], "ttlSeconds": 3600, "ekSha256": "0f" * 32}
    assert_conforms(replacement, "ReplacementRequest")
    assert_conforms(backend.operate("POST", "replacements", replacement).json, "CreatedInvites")
    stray = backend.iot.create_keys_and_certificate(setAsActive=True)
    backend.iot.attach_policy(policyName=POLICY, target=stray["certificateArn"])
    backend.clock.ahead = 2 * 3600
    swept = backend.operate("POST", "sweep", {}).json
    assert len(swept["disabled"]) == 1
    assert_conforms(swept, "Swept")
    revoked = backend.operate("DELETE", "fleet", thing=REQUEST["thingName"], others="show").json
    assert_conforms(revoked, "RevokedThing")
    assert_conforms(backend.operate("POST", "rebuild", {"next": "p:"}).json, "Rebuilt")


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_problem_is_exactly_its_sample(backend: Deployment, name: str) -> None:
    """Status, title, sentence and code are those of the sample; only the request's id is its own."""
    answer = SITUATIONS[name](backend)
    assert answer.json | {"requestId": "sample"} == sample(name)
    assert answer.status == sample(name)["status"]
    assert_conforms(answer.json, "Problem")


@pytest.mark.parametrize(
    ("name", "environment"),
    [("problem-invite-required.json", {"AUTH_MODE": None}), ("problem-internal.json", {"POLICY_NAME": None})],
)
def test_a_problem_of_the_deployment_is_exactly_its_sample(name: str, environment: dict[str, str | None]) -> None:
    """A deployment that lets nobody in, and one that is not configured."""
    with deployed(environment) as backend:
        answer = backend.post("/v1/certificates", REQUEST)
        assert answer.json | {"requestId": "sample"} == sample(name)
        assert_conforms(answer.json, "Problem")


def test_no_sample_is_without_its_test() -> None:
    """A problem nobody produces is no sample."""
    tested = {*SITUATIONS, *OPERATOR_SITUATIONS, "problem-invite-required.json", "problem-internal.json"}
    assert {path.name for path in SAMPLES.glob("problem-*.json")} == tested


def test_openapi_is_valid_openapi() -> None:
    """openapi.yaml follows OpenAPI 3.1."""
    openapi_spec_validator.validate(SPEC)


def test_openapi_and_the_router_know_the_same_routes(backend: Deployment) -> None:
    """Every path of the contract is answered for exactly the methods it lists."""
    for path, methods in SPEC["paths"].items():
        answer = backend.send(event("OPTIONS", path))
        assert answer.status == 405
        assert set(answer.headers["allow"].lower().split(", ")) == set(methods)


@pytest.mark.parametrize("name", sorted(SITUATIONS.keys() - {"problem-not-found.json"}))
def test_openapi_lists_the_status_of_every_problem(name: str) -> None:
    """A status the contract does not mention would surprise a client."""
    for path in ("/v1/certificates", "/getCertificate"):
        assert str(sample(name)["status"]) in SPEC["paths"][path]["post"]["responses"]


def test_openapi_and_the_backend_agree_on_the_version(backend: Deployment) -> None:
    """One number."""
    assert backend.send(event("GET", "/v1/health")).json["version"] == SPEC["info"]["version"]
