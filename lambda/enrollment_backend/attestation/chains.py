"""Finds out whether a certificate chains to a root that the operator has configured (RFC 5280 §6.1).

It goes from the root downwards: each signature is verified with a key that is trusted already, so what a stranger adds
to a request costs next to nothing, and no key of a stranger's is ever used.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from enrollment_backend.attestation.certificates import (
    BASIC_CONSTRAINTS,
    EXTENDED_KEY_USAGE,
    KEY_CERT_SIGN,
    KEY_USAGE,
    SUBJECT_ALTERNATIVE_NAME,
    Certificate,
)
from enrollment_backend.attestation.structures import Hash

_MOST_AUTHORITIES = 5  # above an EK certificate; vendors have one to three
_SMALLEST_RSA = 2048  # bits
_RSA_SIGNATURES: dict[str, Hash] = {  # RFC 4055 §5
    "1.2.840.113549.1.1.11": hashes.SHA256(),
    "1.2.840.113549.1.1.12": hashes.SHA384(),
    "1.2.840.113549.1.1.13": hashes.SHA512(),
}
_ECDSA_SIGNATURES: dict[str, Hash] = {  # RFC 5758 §3.2
    "1.2.840.10045.4.3.2": hashes.SHA256(),
    "1.2.840.10045.4.3.3": hashes.SHA384(),
    "1.2.840.10045.4.3.4": hashes.SHA512(),
}
# The critical extensions that are heeded, or that are only about the TPM.
_UNDERSTOOD = frozenset(
    {
        BASIC_CONSTRAINTS,
        KEY_USAGE,
        EXTENDED_KEY_USAGE,
        SUBJECT_ALTERNATIVE_NAME,
        "2.5.29.9",  # subjectDirectoryAttributes
        "2.5.29.32",  # certificatePolicies
    }
)


class _Trusted(NamedTuple):
    """A CA's certificate that is trusted, and how many CAs there may be below it."""

    certificate: Certificate
    room: int


def is_understood(certificate: Certificate) -> bool:
    """Whether all critical extensions of a certificate are known here."""
    return {kind for kind, extension in certificate.extensions.items() if extension.critical} <= _UNDERSTOOD


def leads_to_anchor(
    leaf: Certificate, supplied: Sequence[Certificate], authorities: Sequence[Certificate], now: dt.datetime | None
) -> bool:
    """Whether a chain of certificates leads from a configured root to a certificate.

    Every certificate above it must be a CA's, allow as many CAs below it as there are, and be signed with SHA-256 or
    better by a key of RSA-2048 or better, or EC.

    Args:
        leaf: the certificate.
        supplied: certificates that may be between; nothing about them is trusted.
        authorities: those that the operator has configured. Those that are self-issued are roots, and anchor a chain.
        now: when all certificates above the leaf have to be valid; None if that does not matter.

    Does not check the leaf, except who issued it.
    """
    related = _related(leaf, [*authorities, *supplied])
    left = [certificate for certificate in related if now is None or certificate.is_valid_at(now)]
    roots = [certificate for certificate in left if certificate in authorities and certificate.is_self_issued]
    trusted = [authority for root in roots if (authority := _authority(root, _MOST_AUTHORITIES - 1))]
    while trusted:
        if any(_has_signed(authority.certificate, leaf) for authority in trusted):
            return True
        found = [authority.certificate for authority in trusted]
        left = [certificate for certificate in left if certificate not in found]
        trusted = _issued_by(trusted, left)
    return False


def _related(leaf: Certificate, pool: Sequence[Certificate]) -> list[Certificate]:
    """Return the certificates that can be above the leaf, going by the names alone, each once."""
    wanted = {leaf.issuer}
    for _ in range(_MOST_AUTHORITIES):
        wanted |= {certificate.issuer for certificate in pool if certificate.subject in wanted}
    each_once = {certificate.encoding: certificate for certificate in pool}
    return [certificate for certificate in each_once.values() if certificate.subject in wanted]


def _issued_by(trusted: Sequence[_Trusted], candidates: Sequence[Certificate]) -> list[_Trusted]:
    """Return the candidates that one of the trusted authorities has made authorities."""
    return [
        authority
        for candidate in candidates
        for issuer in trusted
        if issuer.room > 0
        and _has_signed(issuer.certificate, candidate)
        and (authority := _authority(candidate, issuer.room - 1))
    ]


def _authority(certificate: Certificate, room: int) -> _Trusted | None:
    """Return a certificate with how many CAs there may be below it; None if it is not a CA's."""
    constraints = certificate.constraints()
    if constraints is None or not constraints.is_ca:
        return None
    if not certificate.may(KEY_CERT_SIGN) or not is_understood(certificate):
        return None
    return _Trusted(certificate, room if constraints.path_length is None else min(room, constraints.path_length))


def _has_signed(issuer: Certificate, certificate: Certificate) -> bool:
    if issuer.subject != certificate.issuer:
        return False
    algorithm = certificate.signature_type
    try:
        key = load_der_public_key(issuer.spki)
        if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _SMALLEST_RSA and algorithm in _RSA_SIGNATURES:
            key.verify(certificate.signature, certificate.signed, padding.PKCS1v15(), _RSA_SIGNATURES[algorithm])
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm in _ECDSA_SIGNATURES:
            key.verify(certificate.signature, certificate.signed, ec.ECDSA(_ECDSA_SIGNATURES[algorithm]))
        else:
            return False
    except (ValueError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
