"""Enrollment over Secure Transport (RFC 7030, RFC 8951): the routes for EST clients, with the use cases of all devices.

    cacerts          the certificates of the CAs that devices have to trust, see `trust_anchors`
    csrattrs         204: a CSR needs no particular attributes
    simpleenroll     an enrollment; the invite's code is the password
    simplereenroll   see `reenrolling`; API Gateway has to ask for a client certificate

Bodies are base64, whatever Content-Transfer-Encoding says (RFC 8951 §3). It is sent nevertheless, since clients that
are older than RFC 8951 may insist on it. The other operations, fullcmc and serverkeygen, do not exist.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509 import load_pem_x509_certificate

from enrollment_backend import log, pem_block
from enrollment_backend.errors import (
    ClientCertificateRequiredError,
    EnrollmentInProgressError,
    EnrollmentQueuedError,
    InviteInvalidError,
    InviteRequiredError,
    Pkcs10Base64Error,
)
from enrollment_backend.http import Event, Response, Routes, client_certificate, header, typed_body
from enrollment_backend.issuing import Issued
from enrollment_backend.reenrolling import Reenrolling
from enrollment_backend.service import EnrollmentRequest, EnrollmentService

ROOT = "/.well-known/est"

_PKCS10 = "application/pkcs10"  # RFC 5967
_CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"  # RFC 7030 §4.1.3 and §4.2.3
_WHITE_SPACE = re.compile(rb"[\r\n \t]+")  # RFC 8951 §3.1
_BASIC = "basic"  # RFC 7617; schemes are compared without regard to case (RFC 9110 §11.1)
_CHALLENGE = 'Basic realm="hsm-enroll", charset="UTF-8"'


def routes(service: EnrollmentService, reenrolling: Reenrolling, trust_anchors: Callable[[], bytes]) -> Routes:
    """Return the routes of EST clients.

    Args:
        service: the use cases of devices without a certificate.
        reenrolling: the use case of devices with one.
        trust_anchors: returns the CMS for cacerts, in DER.
    """
    return {
        f"{ROOT}/cacerts": {"GET": partial(_cacerts, trust_anchors)},
        f"{ROOT}/csrattrs": {"GET": _csrattrs},
        f"{ROOT}/simpleenroll": {"POST": partial(_simpleenroll, service)},
        f"{ROOT}/simplereenroll": {"POST": partial(_simplereenroll, reenrolling)},
    }


def _cacerts(trust_anchors: Callable[[], bytes], _event: Event) -> Response:
    return _certs_only(trust_anchors())


def _csrattrs(_event: Event) -> Response:
    return Response(HTTPStatus.NO_CONTENT)  # RFC 7030 §4.5.2


def _simpleenroll(service: EnrollmentService, event: Event) -> Response:
    try:
        user, code = _user_and_password(event)
        request = EnrollmentRequest(code=code, thing_name=user or None, csr=_csr(event))
        return _answered(lambda: service.enroll(request))
    except (InviteRequiredError, InviteInvalidError) as error:
        error.challenge = _CHALLENGE
        if isinstance(error, InviteRequiredError):
            error.detail = "This request requires an invite's code as the password (Authorization: Basic)."
        raise


def _simplereenroll(reenrolling: Reenrolling, event: Event) -> Response:
    csr, certificate = _csr(event), client_certificate(event)
    if certificate is None:
        raise ClientCertificateRequiredError
    return _answered(lambda: reenrolling.reenroll(certificate, csr))


def _answered(use_case: Callable[[], Issued]) -> Response:
    """Return the certificate; or 202 if the client only has to send the same request again (RFC 7030 §4.2.3)."""
    try:
        issued = use_case()
    except (EnrollmentQueuedError, EnrollmentInProgressError) as error:
        log.note(accepted=error.code)
        return Response(HTTPStatus.ACCEPTED, "text/plain", error.detail, {"retry-after": str(error.retry_after)})
    certificate = load_pem_x509_certificate(issued.certificate.pem.encode("ascii"))
    return _certs_only(pkcs7.serialize_certificates([certificate], Encoding.DER))


def _certs_only(cms: bytes) -> Response:
    # In one line: strongSwan cannot read lines, and RFC 8951 §3.1 does not require them.
    body = base64.b64encode(cms).decode("ascii")
    return Response(HTTPStatus.OK, _CERTS_ONLY, body, {"content-transfer-encoding": "base64"})


def _csr(event: Event) -> str:
    """Return the CSR in a request's body, in PEM.

    Raises:
        MediaTypeError: the Content-Type is not that of PKCS#10.
        BodyTooLargeError, BodyBase64Error: see `http.body_of`.
        Pkcs10Base64Error: it is not base64.
    """
    body = _WHITE_SPACE.sub(b"", typed_body(event, _PKCS10))
    try:
        octets = binascii.a2b_base64(body, strict_mode=True)
    except ValueError as error:
        raise Pkcs10Base64Error from error
    if not octets:
        raise Pkcs10Base64Error
    return pem_block.encode(octets)


def _user_and_password(event: Event) -> tuple[str, str | None]:
    """Return the user and the password in the header Authorization (RFC 7617 §2); no password without the header.

    Raises:
        InviteInvalidError: the header is not one of the scheme Basic.
    """
    value = header(event, "authorization")
    if value is None:
        return "", None
    scheme, _, credentials = value.strip().partition(" ")
    try:
        decoded = binascii.a2b_base64(credentials.strip(), strict_mode=True).decode("utf-8")
    except ValueError as error:
        raise InviteInvalidError(reason="malformed") from error
    user, colon, password = decoded.rpartition(":")  # a Thing's name may have colons, and no code has one
    if scheme.lower() != _BASIC or not colon:
        raise InviteInvalidError(reason="malformed")
    return user, password.strip()
