"""The whole way through the real handler, with moto as AWS IoT."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.csr_factory import THING, ec_key, pem_of, request, rsa_key, spki_of
from tests.support.deployment import POLICY, Deployment, event


def spki_in(certificate_pem: str) -> bytes:
    """Return the DER public key of a certificate."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode("ascii"))
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "make_key",  # when the test runs: every worker collects it
    [ec_key, partial(ec_key, ec.SECP384R1), rsa_key, partial(rsa_key, 3072), partial(rsa_key, 4096)],
    ids=["ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "rsa-4096"],
)
def test_a_good_csr_becomes_an_active_attached_certificate(
    backend: Deployment, make_key: Callable[[], CertificateIssuerPrivateKeyTypes]
) -> None:
    """Each allowed key gets an active certificate for itself, attached to its Thing alone and to the device policy."""
    key = make_key()
    answer = backend.enroll(pem_of(request(key)), THING)

    assert (answer.status, answer.headers["content-type"]) == (201, "application/json")
    issued = answer.json
    assert spki_in(issued["certificatePem"]) == spki_of(key)
    assert (issued["thingName"], issued["attested"]) == (THING, False)
    assert (issued["mqttEndpoint"], issued["mqttPort"]) == ("mqtt.example.com", 8883)
    held = backend.iot.describe_certificate(certificateId=issued["certificateId"])["certificateDescription"]
    assert (held["certificateArn"], held["status"]) == (issued["certificateArn"], "ACTIVE")
    assert backend.iot.list_thing_principals_v2(thingName=THING)["thingPrincipalObjects"] == [
        {"principal": issued["certificateArn"], "thingPrincipalType": "EXCLUSIVE_THING"}
    ]
    attached = backend.iot.list_attached_policies(target=issued["certificateArn"])["policies"]
    assert [policy["policyName"] for policy in attached] == [POLICY]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize("encoded", [False, True])
def test_the_original_articles_request_gets_the_bare_pem(
    backend: Deployment, content_type: str | None, encoded: bool
) -> None:
    """POST /getCertificate answers 200 and text/plain, whatever a plain client declares (curl -d comes in base64).

    The CSR's subject names no Thing: it is the article's.
    """
    body = json.dumps({"thingName": THING, "csr": articles_csr()})
    if encoded:
        body = base64.b64encode(body.encode("utf-8")).decode("ascii")
    answer = backend.send(event("POST", "/getCertificate", body, content_type=content_type, encoded=encoded))
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain")
    assert spki_in(answer.body) == spki_of(ec_key())
    assert len(backend.iot.list_thing_principals(thingName=THING)["principals"]) == 1


def articles_csr() -> str:
    """Return a CSR with the subject that the original article gives to OpenSSL."""
    subject = x509.Name.from_rfc4514_string(
        "CN=AWS IoT Certificate,O=Amazon Web Services Japan K.K.,L=Meguro,ST=Tokyo,C=JP"
    )
    return pem_of(x509.CertificateSigningRequestBuilder().subject_name(subject).sign(ec_key(), hashes.SHA256()))


@pytest.mark.parametrize("path", ["/getCertificate", "/v1/certificates"])
def test_s10_the_articles_csr_alone_names_no_thing(backend: Deployment, path: str) -> None:
    """S10: where no name is given beside it, the common name would have to be the Thing's."""
    csr = articles_csr()
    assert backend.refused(backend.post(path, {"csr": csr}), 400, "csr-names-no-thing", csr)


@pytest.mark.parametrize("path", ["/getCertificate", "/v1/certificates"])
def test_s11_a_name_that_no_thing_can_have_is_refused_whatever_the_csr_says(backend: Deployment, path: str) -> None:
    """S11: the field is wrong, not the CSR."""
    body = {"thingName": "AWS IoT Certificate", "csr": articles_csr()}
    assert backend.refused(backend.post(path, body), 400, "thing-name-invalid", body["csr"])


def test_windows_line_ends_and_a_missing_last_one_are_fine(backend: Deployment) -> None:
    """RFC 7468 leaves the line end open; what goes to AWS IoT is the same either way."""
    text = pem_of(request())
    answers = [
        backend.enroll(variant, THING) for variant in (text.replace("\n", "\r\n"), text.removesuffix("\n"), text)
    ]
    assert [answer.status for answer in answers] == [201, 200, 200]
    assert len({answer.body for answer in answers}) == 1
