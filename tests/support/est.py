"""An EST client (RFC 7030) for the tests of the backend."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tests.backend.fleet import Device
from tests.support.csr_factory import der_of, request
from tests.support.deployment import Answer, Deployment, event

ROOT = "/.well-known/est"
CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"


def basic(password: str, user: str = "") -> str:
    """Return the header Authorization of the scheme Basic (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def est_event(
    method: str,
    operation: str,
    body: bytes | None = None,
    *,
    authorization: str | None = None,
    certificate: str | None = None,
    content_type: str | None = "application/pkcs10",
) -> dict[str, Any]:
    """Return what API Gateway passes on, with the client's certificate (PEM) if the domain name has mutual TLS."""
    encoded = None if body is None else base64.b64encode(body).decode("ascii")
    made = event(method, f"{ROOT}/{operation}", encoded, encoded=body is not None, content_type=content_type)
    if authorization is not None:
        made["headers"]["authorization"] = authorization
    if certificate is not None:
        made["requestContext"]["authentication"] = {"clientCert": {"clientCertPem": certificate}}
    return made


def certificates_in(answer: Answer) -> list[x509.Certificate]:
    """Return the certificates in a certs-only answer."""
    assert (answer.status, answer.headers["content-type"]) == (200, CERTS_ONLY), answer.body
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.body))


def body_of(csr: x509.CertificateSigningRequest) -> bytes:
    """Return a CSR as an EST client sends it."""
    return base64.encodebytes(der_of(csr))


@dataclass
class EstClient:
    """A client that is a Thing, with the key and the certificate that it has now.

    Attributes:
        certificate: of its connections, in PEM; None without mutual TLS.
    """

    backend: Deployment
    thing: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: str | None = None

    @property
    def device(self) -> Device:
        """The same Thing and key, to look at what AWS IoT and the ledger have of it."""
        return Device(self.backend, self.thing, key=self.key)

    def enroll(self, code: str | None = None, user: str = "", *, subject: str | None = None) -> Answer:
        """Send simpleenroll."""
        authorization = None if code is None else basic(code, user)
        csr = body_of(request(self.key, subject or self.thing))
        return self.backend.send(est_event("POST", "simpleenroll", csr, authorization=authorization))

    def reenroll(self, key: ec.EllipticCurvePrivateKey | None = None, *, subject: str | None = None) -> Answer:
        """Send simplereenroll, for the key that the client has or another one."""
        return self.send(request(key or self.key, subject or self.thing))

    def send(self, csr: x509.CertificateSigningRequest) -> Answer:
        """Send simplereenroll with a CSR."""
        return self.backend.send(est_event("POST", "simplereenroll", body_of(csr), certificate=self.certificate))

    def successor(self) -> EstClient:
        """Return the same Thing with another key, and without its certificate yet."""
        return EstClient(self.backend, self.thing)

    def take(self, answer: Answer) -> EstClient:
        """Go on with the certificate in an answer, which is one for the client's key."""
        (issued,) = certificates_in(answer)
        assert issued.public_key() == self.key.public_key()
        self.certificate = issued.public_bytes(Encoding.PEM).decode("ascii")
        return self
