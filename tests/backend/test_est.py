"""EST (RFC 7030): the same enrollment as POST /v1/certificates, in the words of clients that exist."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.csr_factory import THING, der_of, ec_key, pem_of, request
from tests.support.deployment import LAMBDA, Deployment, deployed
from tests.support.est import ROOT, EstClient, basic, body_of, certificates_in, est_event

BODY = body_of(request())


@pytest.fixture
def closed() -> Iterator[Deployment]:
    """A deployment that requires invites."""
    with deployed({"AUTH_MODE": "invite"}) as deployment:
        yield deployment


def enroll(backend: Deployment, body: bytes = BODY, authorization: str | None = None) -> int:
    """Send simpleenroll; return the status."""
    return backend.send(est_event("POST", "simpleenroll", body, authorization=authorization)).status


def test_an_invite_as_the_password_gets_the_certificate_that_the_other_route_gets(closed: Deployment) -> None:
    """The ledger is the same: EST's answer is repeated, and POST /v1/certificates with the code returns that one."""
    code, client = closed.invite(THING), EstClient(closed, THING)
    (issued,) = certificates_in(client.enroll(code))
    assert certificates_in(client.enroll(code)) == [issued]
    same = client.device.enroll()
    assert same.status == 401
    answer = closed.enroll(client.device.csr, THING, code)
    assert answer.status == 200
    assert answer.json["certificatePem"].encode("ascii") == issued.public_bytes(Encoding.PEM)
    client.device.assert_enrolled(answer)
    assert [line["enrollment"] for line in closed.log_lines() if "enrollment" in line] == ["new", *["repeated"] * 2]


@pytest.mark.parametrize("user", ["", THING])
def test_the_user_is_nobody_or_the_thing(closed: Deployment, user: str) -> None:
    """A client that has to send a user sends the Thing's name."""
    client = EstClient(closed, THING)
    client.take(client.enroll(closed.invite(THING), user))


def test_a_user_may_have_colons(closed: Deployment) -> None:
    """A Thing's name may. RFC 7617 lets the user end at the first one, but a code has none; so the last one counts."""
    client = EstClient(closed, "line-3:press:2")
    client.take(client.enroll(closed.invite(client.thing), client.thing))


def test_another_user_is_refused(closed: Deployment) -> None:
    """S11: the user names another Thing than the CSR."""
    client = EstClient(closed, THING)
    code = closed.invite("press-*")
    closed.calls.clear()
    closed.log.truncate(closed.log.seek(0))
    assert closed.refused(client.enroll(code, "press-18"), 400, "csr-common-name-mismatch", code)


def test_an_open_deployment_asks_for_no_password(backend: Deployment) -> None:
    """As POST /v1/certificates does."""
    client = EstClient(backend, THING)
    client.take(client.enroll())


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "invite-required"),
        (basic(""), "invite-invalid"),
        (basic("0123"), "invite-invalid"),
        ("Basic", "invite-invalid"),
        ("Basic ????", "invite-invalid"),
        ("Basic " + base64.b64encode(b"no colon").decode(), "invite-invalid"),
        ("Basic " + base64.b64encode(b":\xff").decode(), "invite-invalid"),
        ("Bearer " + base64.b64encode(b":x").decode(), "invite-invalid"),
    ],
)
def test_s12_without_a_valid_password_the_client_is_asked_for_one(
    closed: Deployment, authorization: str | None, code: str
) -> None:
    """S12: 401 with the scheme that RFC 7030 §3.2.3 expects, and no call to AWS."""
    answer = closed.send(est_event("POST", "simpleenroll", BODY, authorization=authorization))
    assert closed.refused(answer, 401, code, BODY.decode("ascii"))
    assert answer.headers["www-authenticate"].startswith("Basic realm=")


def test_s12_the_code_counts_in_the_scheme_basic_only(closed: Deployment) -> None:
    """S12: the same credentials under another scheme are refused."""
    credentials = basic(closed.invite(THING))
    assert enroll(closed, authorization=credentials.replace("Basic", "Digest")) == 401
    assert enroll(closed, authorization=credentials.replace("Basic", "basic")) == 200


def test_the_other_routes_still_ask_for_a_bearer(closed: Deployment) -> None:
    """What EST says of its own scheme is said there only."""
    closed.send(est_event("POST", "simpleenroll", BODY))
    assert closed.enroll(pem_of(request()), THING).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "body",
    [
        base64.b64encode(der_of(request())),
        base64.b64encode(der_of(request())) + b"\n",
        body_of(request()).replace(b"\n", b"\r\n"),
        b" \t\r\n".join(bytes([octet]) for octet in base64.b64encode(der_of(request()))),
    ],
    ids=["one line", "a line end", "CRLF", "white space everywhere"],
)
def test_white_space_in_base64_is_accepted(backend: Deployment, body: bytes) -> None:
    """RFC 8951 §3.1: CR, LF, blanks and tabs may be anywhere."""
    assert enroll(backend, body) == 200


@pytest.mark.parametrize("coding", ["base64", "binary", "8bit"])
def test_the_transfer_encoding_that_is_declared_does_not_matter(backend: Deployment, coding: str) -> None:
    """RFC 8951 §3: the body is base64, whatever Content-Transfer-Encoding says."""
    made = est_event("POST", "simpleenroll", BODY, content_type="Application/PKCS10; charset=us-ascii")
    made["headers"]["content-transfer-encoding"] = coding
    assert backend.send(made).status == 200


@pytest.mark.parametrize("content_type", [None, "application/json", "application/x-www-form-urlencoded"])
def test_s2_another_content_type_is_refused(backend: Deployment, content_type: str | None) -> None:
    """S2: RFC 7030 §4.2.1 knows one; the answer names it."""
    answer = backend.send(est_event("POST", "simpleenroll", BODY, content_type=content_type))
    assert backend.refused(answer, 415, "media-type-unsupported")
    assert "application/pkcs10" in answer.json["detail"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "pkcs10-base64-invalid"),
        (b"\r\n", "pkcs10-base64-invalid"),
        (der_of(request()), "pkcs10-base64-invalid"),
        (pem_of(request()).encode(), "pkcs10-base64-invalid"),
        (BODY[:-3], "pkcs10-base64-invalid"),
        (BODY.replace(b"A", b"-", 1), "pkcs10-base64-invalid"),
        (base64.b64encode(der_of(request()) + b"\0"), "csr-der-invalid"),
        (base64.b64encode(der_of(request())[:-1]), "csr-der-invalid"),
        (base64.b64encode(b"\x30\x80" + bytes(90)), "csr-der-invalid"),
        (body_of(request(ec_key(), "press-17\n")), "csr-names-no-thing"),
    ],
)
def test_s4_a_body_that_is_no_pkcs10_is_refused(backend: Deployment, body: bytes, code: str) -> None:
    """S4, S10: each with its code, and no call to AWS."""
    answer = backend.send(est_event("POST", "simpleenroll", body))
    assert backend.refused(answer, 400, code)


def test_s3_a_body_of_more_than_16_kib_is_refused(backend: Deployment) -> None:
    """S3: before it is decoded, even if it is all white space."""
    answer = backend.send(est_event("POST", "simpleenroll", BODY + b"\n" * 16 * 1024))
    assert backend.refused(answer, 413, "body-too-large")


def test_a_deployment_that_requires_tpms_refuses_est() -> None:
    """EST has no way to send evidence; the refusal says so."""
    with deployed({"ATTESTATION": "require"}) as backend:
        answer = EstClient(backend, THING).enroll()
        assert backend.refused(answer, 403, "attestation-required")
        assert "EST" in answer.json["detail"]


def test_a_queued_client_is_told_to_come_back_and_then_gets_its_certificate() -> None:
    """RFC 7030 §4.2.3: 202 with Retry-After, and the same request again."""
    with deployed({"CERTIFICATE_RATE": "0.01"}) as slow:
        client = EstClient(slow, THING)
        EstClient(slow, "press-18").enroll()
        answer = client.enroll()
        assert (answer.status, answer.headers["content-type"]) == (202, "text/plain")
        slow.clock.ahead += int(answer.headers["retry-after"]) + 1
        client.take(client.enroll())
        assert [line["accepted"] for line in slow.log_lines() if "accepted" in line] == ["enrollment-queued"]


def test_cacerts_are_what_a_device_has_to_trust(backend: Deployment) -> None:
    """RFC 7030 §4.1.3: the roots of Amazon Trust Services as certs-only CMS, for anybody, without a call to AWS."""
    answer = backend.send(est_event("GET", "cacerts", content_type=None))
    names = [certificate.subject.rfc4514_string() for certificate in certificates_in(answer)]
    assert sorted(names) == [  # CMS sorts them in an order of its own
        f"CN=Amazon Root CA {number},O=Amazon,C=US" for number in (1, 2, 3, 4)
    ]
    assert answer.body == "".join(answer.body.split())
    assert backend.calls == []


def test_a_deployment_may_have_other_trust_anchors(tmp_path: Path) -> None:
    """The local cloud has its own CA; a file that is no such file is an error of the configuration."""
    file = tmp_path / "ca.pem"
    block = (
        (LAMBDA / "enrollment_backend" / "amazon_roots.pem").read_text("ascii").partition("-----END CERTIFICATE-----")
    )
    file.write_text("".join(block[:2]), "ascii")
    with deployed({"TRUST_ANCHORS_FILE": str(file)}) as backend:
        assert len(certificates_in(backend.send(est_event("GET", "cacerts")))) == 1
    for content in (b"", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"):
        file.write_bytes(content)
        with deployed({"TRUST_ANCHORS_FILE": str(file)}) as backend:
            assert backend.send(est_event("GET", "cacerts")).status == 500
            assert backend.log_lines()[-1]["variable"] == "TRUST_ANCHORS_FILE"


def test_no_attributes_are_asked_for(backend: Deployment) -> None:
    """RFC 7030 §4.5.2: 204 without a body says so."""
    answer = backend.send(est_event("GET", "csrattrs", content_type=None))
    assert (answer.status, answer.body) == (204, "")


@pytest.mark.parametrize("operation", ["fullcmc", "serverkeygen", "label/simpleenroll"])
def test_what_is_optional_is_not_there(backend: Deployment, operation: str) -> None:
    """RFC 7030 §2 and §3.2.2: neither full CMC, nor keys made by the server, nor several CAs."""
    answer = backend.send(est_event("POST", operation, BODY))
    assert backend.refused(answer, 404, "not-found")
    assert ROOT not in answer.body
