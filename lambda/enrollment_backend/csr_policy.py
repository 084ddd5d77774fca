"""Is this CSR acceptable? Text in, a value or a named refusal out; no network, no clock.

What is verified here must be, byte for byte, what AWS IoT is asked to certify. So everything that could be encoded or
read in a second way is refused: the structure is read twice, by `cryptography` and as it lies there in DER.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import CertificateSigningRequest, InvalidVersion, load_der_x509_csr

from enrollment_backend import der, weak_keys
from enrollment_backend.errors import (
    CsrAttributesError,
    CsrCommonNameError,
    CsrCommonNameLengthError,
    CsrDerError,
    CsrKeyError,
    CsrKeyWeakError,
    CsrPemError,
    CsrSignatureAlgorithmError,
    CsrSignatureError,
    CsrSubjectError,
    CsrTooLargeError,
)

MAX_CSR_CHARACTERS = 4096  # AWS IoT CreateCertificateFromCsr, certificateSigningRequest
_MAX_COMMON_NAME = 64  # RFC 5280, appendix A.1: ub-common-name

_RSA_BITS = frozenset({2048, 3072, 4096})
_RSA_EXPONENT = 65537
_CURVES = (ec.SECP256R1, ec.SECP384R1)

# Whole AlgorithmIdentifiers with SHA-256, SHA-384, SHA-512. Parameters are NULL for RSA (RFC 4055 §5) and absent for
# ECDSA (RFC 5758 §3.2). RSASSA-PSS is not among them.
_RSA_SIGNATURES = frozenset(
    {
        bytes.fromhex("300d06092a864886f70d01010b0500"),
        bytes.fromhex("300d06092a864886f70d01010c0500"),
        bytes.fromhex("300d06092a864886f70d01010d0500"),
    }
)
_ECDSA_SIGNATURES = frozenset(
    {
        bytes.fromhex("300a06082a8648ce3d040302"),
        bytes.fromhex("300a06082a8648ce3d040303"),
        bytes.fromhex("300a06082a8648ce3d040304"),
    }
)

_COMMON_NAME = bytes.fromhex("550403")  # RFC 5280, appendix A.1: id-at-commonName
# RFC 5280 §4.1.2.4 leaves the first two for new names, and §4.1.2.6 IA5String for addresses and domain components.
_CODECS = {der.UTF8_STRING: "utf-8", der.PRINTABLE_STRING: "ascii", der.IA5_STRING: "ascii"}

_NO_UNUSED_BITS = b"\x00"  # X.690 §8.6.2; every signature is whole octets

_BEGIN = "-----BEGIN CERTIFICATE REQUEST-----"
_END = "-----END CERTIFICATE REQUEST-----"
_PEM_LINE = 64  # RFC 7468 §2


@dataclass(frozen=True)
class AcceptedCsr:
    """A CSR that passed every guard.

    Attributes:
        pem: the one PEM block, LF line ends, none after the last line.
        spki: DER SubjectPublicKeyInfo of its key (RFC 5280 §4.1.2.7).
        common_name: its one common name.
    """

    pem: str
    spki: bytes
    common_name: str


@dataclass(frozen=True)
class _Parts:
    """A CertificationRequest (RFC 2986 §4) as it lies there.

    Of `subject` and `attributes` the contents octets, of `spki` and `algorithm` the whole encoding.
    """

    subject: bytes
    spki: bytes
    attributes: bytes
    algorithm: bytes


def accept(text: str, thing_name: str | None) -> AcceptedCsr:
    """Decide whether a PKCS#10 request (RFC 2986 §4) may get a certificate for a Thing.

    Args:
        text: the CSR in PEM, line ends LF or CRLF, the last one optional.
        thing_name: the Thing; None leaves the name to the CSR, whose common name the caller then has to check.

    Returns:
        The CSR in the one form that goes to AWS IoT.

    Raises:
        CsrRefusedError: one of its classes for each rule.

    Does not check whether the key was used before, whether others have it or one of its primes too, where it lives, or
    what the subject says beside the common name. Of an ECDSA signature's two values of s it takes either.
    """
    if len(text) > MAX_CSR_CHARACTERS:
        raise CsrTooLargeError
    pem = text.replace("\r\n", "\n").removesuffix("\n")
    encoded = _only_block(pem)
    parts = _split(encoded)
    if parts.attributes:
        raise CsrAttributesError
    csr = _load(encoded)
    key = _allowed_key(csr)
    # PKCS#10 names the signature algorithm once only: the key is what it has to agree with.
    if parts.algorithm not in (_RSA_SIGNATURES if isinstance(key, rsa.RSAPublicKey) else _ECDSA_SIGNATURES):
        raise CsrSignatureAlgorithmError
    if parts.spki != key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise CsrDerError  # a compressed point, say
    if not csr.is_signature_valid:
        raise CsrSignatureError
    names = _common_names(parts.subject)
    if len(names) != 1 or thing_name not in {None, *names}:
        raise CsrCommonNameError
    if len(names[0]) > _MAX_COMMON_NAME:
        raise CsrCommonNameLengthError
    return AcceptedCsr(pem, parts.spki, names[0])


def _only_block(pem: str) -> bytes:
    """Decode what is exactly one PEM block: encoding it again must give the same text (RFC 7468 §3, strict form)."""
    try:
        content = base64.b64decode(pem.removeprefix(_BEGIN).removesuffix(_END).replace("\n", ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise CsrPemError from error
    body = base64.b64encode(content).decode("ascii")
    lines = (body[start : start + _PEM_LINE] for start in range(0, len(body), _PEM_LINE))
    if pem != "\n".join((_BEGIN, *lines, _END)):
        raise CsrPemError
    return content


def _split(encoded: bytes) -> _Parts:
    information, algorithm, signature = _children(encoded, [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING])
    if not signature.content.startswith(_NO_UNUSED_BITS):
        raise CsrDerError
    inner = [der.INTEGER, der.SEQUENCE, der.SEQUENCE, der.CONTEXT_0]
    _, subject, spki, attributes = _children(information.encoding, inner)
    return _Parts(subject.content, spki.encoding, attributes.content, algorithm.encoding)


def _children(encoded: bytes, tags: list[int]) -> list[der.Element]:
    """Return what the one SEQUENCE that `encoded` must be consists of; its tags must be these."""
    try:
        (parent,) = der.elements(encoded)
        children = der.elements(parent.content)
    except ValueError as error:
        raise CsrDerError from error
    if parent.tag != der.SEQUENCE or [child.tag for child in children] != tags:
        raise CsrDerError
    return children


def _load(encoded: bytes) -> CertificateSigningRequest:
    try:
        return load_der_x509_csr(encoded)
    except (ValueError, InvalidVersion) as error:
        raise CsrDerError from error


def _allowed_key(csr: CertificateSigningRequest) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    try:
        key = csr.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CsrKeyError from error
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        if key.key_size not in _RSA_BITS or numbers.e != _RSA_EXPONENT:
            raise CsrKeyError
        if weakness := weak_keys.weakness_of(numbers.n):
            raise CsrKeyWeakError(weakness=weakness)
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    raise CsrKeyError


def _common_names(subject: bytes) -> list[str]:
    """Return every common name there is. `cryptography` has checked the grammar of Name; the strings are left to us."""
    try:
        pairs = [
            der.elements(attribute.content)
            for relative_name in der.elements(subject)
            for attribute in der.elements(relative_name.content)
        ]
        texts = [(kind.content, value.content.decode(_CODECS[value.tag])) for kind, value in pairs]
    except (ValueError, KeyError) as error:
        raise CsrSubjectError from error
    return [text for kind, text in texts if kind == _COMMON_NAME]
