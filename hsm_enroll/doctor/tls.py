"""What a TLS handshake shows: what was negotiated, or why a server is not trusted."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.errors import ForeignCertificateError
from hsm_enroll.x509.certificate import read_certificate, subject_text

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h).
_UNTIMELY = {9, 10}
# ..._DEPTH_ZERO_SELF_SIGNED_CERT, _SELF_SIGNED_CERT_IN_CHAIN, _UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
# _UNABLE_TO_VERIFY_LEAF_SIGNATURE.
_ANOTHER_AUTHORITY = {18, 19, 20, 21}


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What was negotiated in a handshake: the names of the version and the cipher suite."""

    version: str
    cipher: str


@dataclass(frozen=True, slots=True)
class Distrust:
    """Why a server's certificate is not trusted.

    Attributes:
        reason: OpenSSL's description.
        issuer: who issued the certificate (RFC 4514), or "" if that could not be seen.
        is_untimely: whether the certificate has expired or is not yet valid.
        is_another_authority: whether the chain does not end at a trusted authority.
    """

    reason: str
    issuer: str
    is_untimely: bool
    is_another_authority: bool


def negotiated(tls: ssl.SSLSocket) -> Negotiated:
    """Return what was negotiated, also if the handshake ended after that."""
    # Not ``version()``, which is None where the broker ended TLS 1.2 for want of a certificate.
    name, version, _ = tls.cipher() or ("", "", 0)
    return Negotiated(version, name)


def distrust(error: ssl.SSLCertVerificationError, issuer: str) -> Distrust:
    """Return what a failed verification says."""
    return Distrust(
        reason=error.verify_message,
        issuer=issuer,
        is_untimely=error.verify_code in _UNTIMELY,
        is_another_authority=error.verify_code in _ANOTHER_AUTHORITY,
    )


def trusting_context() -> ssl.SSLContext:
    """Return a context that trusts every server, to look at one that is not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def issuer_shown(tls: ssl.SSLSocket) -> str:
    """Return who issued the server's certificate, without control characters; "" if that cannot be read."""
    der = tls.getpeercert(binary_form=True)
    if der is None:
        return ""
    try:
        text = subject_text(read_certificate(ssl.DER_cert_to_PEM_cert(der)).issuer)
    except (ForeignCertificateError, ValueError):
        return ""
    return printable(text)
