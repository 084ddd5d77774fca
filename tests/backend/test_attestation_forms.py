"""The members of requests that are about an attestation: their form, before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.backend.chips import ChipDevice, trusting
from tests.backend.fleet import Device
from tests.contract.test_backend_samples import assert_conforms
from tests.support.csr_factory import THING
from tests.support.deployment import event
from tests.support.proofs import prove

NO_STRINGS: list[Any] = [None, 1, True, [], {}]
NO_BASE64 = ["AA", "AA=", "AAE=\n", " AAE=", "AA==AA==", "AB==", "-_-_", "é", "AA" + "=" * 9]


@pytest.fixture(scope="module")
def shared() -> Iterator[ChipDevice]:
    """An enrolled device with a TPM, for all tests: what they send is refused, and changes nothing."""
    with trusting() as backend:
        device = ChipDevice(backend, THING)
        assert Device.enroll(device).status == 201
        yield device


@pytest.fixture
def device(shared: ChipDevice) -> ChipDevice:
    """The same one; the calls so far are forgotten."""
    shared.backend.calls.clear()
    return shared


def test_requests_and_answers_are_the_contracts(device: ChipDevice) -> None:
    """What the tests' devices send, and what they are answered, is what openapi.yaml says."""
    assert_conforms(device.tpm.request(thing_name=THING), "AttestationRequest")
    session = device.session()
    assert_conforms(session, "AttestationChallenge")
    assert session["thingName"] == THING
    assert_conforms(device.request(session), "EnrollmentRequest")
    assert_conforms({"csr": device.csr, "evidence": device.request(session)["evidence"]}, "RenewalPayload")


@pytest.mark.parametrize("member", ["ekPublic", "akPublic", "ekCertificate", "thingName"])
@pytest.mark.parametrize("value", NO_STRINGS)
def test_s1_members_of_a_request_for_a_session_are_strings(device: ChipDevice, member: str, value: object) -> None:
    """S1: and nothing else."""
    answer = device.backend.post("/v1/attestations", device.tpm.request(thing_name=THING) | {member: value})
    assert (answer.status, answer.json["code"], device.backend.calls) == (400, "field-type", [])


@pytest.mark.parametrize("member", ["ekPublic", "akPublic"])
@pytest.mark.parametrize("value", NO_BASE64)
def test_s1_structures_come_in_canonical_base64(device: ChipDevice, member: str, value: str) -> None:
    """S1: the problem names the member."""
    answer = device.backend.post("/v1/attestations", device.tpm.request() | {member: value})
    assert (answer.status, answer.json["code"]) == (400, "field-invalid")
    assert member in answer.json["detail"]
    assert device.backend.calls == []


def test_s1_a_request_for_a_session_has_what_it_needs_and_no_more(device: ChipDevice) -> None:
    """S1: an unknown member, a missing one, and a name that is none are refused."""
    good, post = device.tpm.request(), device.backend.post
    codes = [
        post("/v1/attestations", good | {"csr": ""}).json["code"],
        *(post("/v1/attestations", {name: good[name] for name in good if name != member}).json["code"] for member in
          ("ekPublic", "akPublic")),
        post("/v1/attestations", good | {"thingName": "a/b"}).json["code"],
        post("/v1/attestations", good | {"ekPublic": "AAAA"}).json["code"],
        post("/v1/attestations", good | {"ekCertificate": "no PEM"}).json["code"],
    ]  # fmt: skip
    assert codes == [
        "field-unknown", "field-missing", "field-missing", "thing-name-invalid", "attestation-malformed",
        "ek-certificate-malformed",
    ]  # fmt: skip
    assert device.backend.calls == []


EVIDENCE: list[tuple[Any, str]] = [
    (None, "field-type"),
    (1, "field-type"),
    ("x", "field-type"),
    ([], "field-type"),
    ({}, "field-missing"),
    ({"more": ""}, "field-unknown"),
    ({"sessionId": 1}, "field-type"),
    ({"sessionId": ""}, "field-invalid"),
    ({"sessionId": "a/b"}, "field-invalid"),
    ({"sessionId": "a" * 65}, "field-invalid"),
    ({"secret": ...}, "field-missing"),
    ({"signature": {}}, "field-type"),
    *[({"certifyInfo": value}, "field-invalid") for value in NO_BASE64],
]


@pytest.mark.parametrize(("evidence", "code"), EVIDENCE)
@pytest.mark.parametrize("path", ["/v1/certificates", "/v1/renewals"])
def test_s1_evidence_is_an_object_of_strings(device: ChipDevice, path: str, evidence: Any, code: str) -> None:
    """S1: in an enrollment and in a renewal alike; whatever is wrong with it, AWS IoT hears nothing of it."""
    backend = device.backend
    good = {"sessionId": "a", "secret": "", "keyPublic": "", "certifyInfo": "", "signature": ""}
    sent = {**good, **evidence} if evidence and isinstance(evidence, dict) else evidence
    if isinstance(sent, dict):
        sent = {name: value for name, value in sent.items() if value is not ...}
    if path == "/v1/certificates":
        answer = backend.post(path, {"csr": device.csr, "thingName": THING, "evidence": sent})
        assert backend.calls == []
    else:
        answer = prove(backend, device.key, path, {"csr": device.wiped().csr, "evidence": sent})
        assert "CreateCertificateFromCsr" not in backend.calls
    assert (answer.status, answer.json["code"]) == (400, code)


def test_the_article_knows_no_evidence(device: ChipDevice) -> None:
    """Its route takes what the original article's client sends, and nothing else."""
    answer = device.backend.post("/getCertificate", {"csr": "x", "thingName": THING, "evidence": {}})
    assert (answer.status, answer.json["code"], device.backend.calls) == (400, "field-unknown", [])


def test_s2_another_type_of_body_is_refused(device: ChipDevice) -> None:
    """S2: a session is asked for in JSON, or with a proof."""
    answer = device.backend.send(event("POST", "/v1/attestations", "{}", content_type="text/plain"))
    assert (answer.status, answer.json["code"], device.backend.calls) == (415, "media-type-unsupported", [])
