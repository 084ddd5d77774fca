"""Decides whether a CSR is acceptable. Pure: text in, a value or an error out; no network, no clock.

The bytes that are verified here must be the bytes that AWS IoT gets. So the CSR is sent in one canonical form, and
anything in it that could be encoded or read in a second way is refused: the structure is parsed twice, by
`cryptography` and by our own strict DER reader. The parts that the signature does not cover, which are the PEM armor
and the parameters of the signature algorithm, are written again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.x509 import CertificateSigningRequest, InvalidVersion, load_der_x509_csr

from enrollment_backend import algorithms, csr_attributes, csr_key, der, pem_block
from enrollment_backend.csr_errors import (
    CsrCommonNameError,
    CsrCommonNameLengthError,
    CsrDerError,
    CsrNamesNoThingError,
    CsrSignatureAlgorithmError,
    CsrSignatureError,
    CsrSubjectError,
    CsrTooLargeError,
)

MAX_CSR_CHARACTERS = 4096  # AWS IoT CreateCertificateFromCsr, certificateSigningRequest
_MAX_COMMON_NAME = 64  # RFC 5280, appendix A.1: ub-common-name

_NULL = bytes((der.NULL, 0))
# The parameters after the algorithm's object identifier: NULL for RSA (RFC 4055 §5), none for ECDSA (RFC 5758 §3.2).
# Both forms are accepted for both: RFC 4055 §5 requires that for RSA, and mbedTLS 2.28 and tpm2-openssl 1.1 write NULL
# for ECDSA.
_SIGNATURE_PARAMETERS = {algorithms.RSA_KEY: _NULL, algorithms.EC_KEY: b""}

_COMMON_NAME = "2.5.4.3"  # RFC 5280, appendix A.1: id-at-commonName
# RFC 5280 §4.1.2.4 allows the first two in new names, and §4.1.2.6 IA5String for addresses and domain components.
_STRINGS = frozenset({der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING})
# X.520's older string types too, for subjects whose content does not matter.
_ANY_STRINGS = _STRINGS | {der.NUMERIC_STRING, der.TELETEX_STRING, der.UNIVERSAL_STRING, der.BMP_STRING}

_NO_TEXT = "must consist of text, as UTF8String, PrintableString or IA5String"
_NOT_PRINTABLE = (
    "has a PrintableString with a character that is not allowed in one, such as an underscore; "
    "encode it as UTF8String instead"
)

_NO_UNUSED_BITS = b"\x00"  # X.690 §8.6.2; a signature is always a whole number of octets


@dataclass(frozen=True)
class AcceptedCsr:
    """A CSR that passed every check.

    Attributes:
        pem: one PEM block, labelled CERTIFICATE REQUEST, with lines of 64 characters, LF line ends, and none after the
            last line.
        der: the request's DER as it was received, which is what a TPM's statement names.
        spki: DER SubjectPublicKeyInfo of its key (RFC 5280 §4.1.2.7).
        common_name: its one common name; None if it has none or several, which only `any_subject` allows.
    """

    pem: str
    der: bytes = field(compare=False)
    spki: bytes
    common_name: str | None


@dataclass(frozen=True)
class _Parts:
    """The parts of a CertificationRequest (RFC 2986 §4), byte for byte.

    `subject` and `attributes` are contents octets; the others are whole encodings.
    """

    information: bytes
    subject: bytes
    spki: bytes
    attributes: bytes
    algorithm: bytes
    signature: bytes


def accept(text: str, thing_name: str | None, *, any_subject: bool = False) -> AcceptedCsr:
    """Check that a PKCS#10 request (RFC 2986 §4) is acceptable for a Thing.

    Args:
        text: the CSR in PEM, see `pem_block.decode`.
        thing_name: the Thing's name. If None, the CSR's common name is the Thing's name, which the caller must check.
        any_subject: whether to accept any subject that X.520 can encode, whatever the Thing's name is.

    Returns:
        The CSR in the canonical form that is sent to AWS IoT.

    Raises:
        CsrRefusedError: the CSR is not acceptable; each rule has its own subclass.

    Does not check whether the key was used before, whether others have it or one of its primes, where it is stored, or
    anything in the subject but the common name. Accepts both possible values of s in an ECDSA signature.
    """
    received = pem_block.decode(text)
    parts = _split(received)
    algorithm, identifier = _signature_algorithm(parts.algorithm)
    encoded = der.sequence(parts.information + identifier + parts.signature)
    pem = pem_block.encode(encoded)
    if len(pem) > MAX_CSR_CHARACTERS:
        raise CsrTooLargeError
    csr_attributes.check(parts.attributes)
    kind = csr_key.check(parts.spki)
    _check_signature_algorithm(algorithm, kind)
    names = _common_names(parts.subject, _ANY_STRINGS if any_subject else _STRINGS)
    if not _load(encoded).is_signature_valid:
        raise CsrSignatureError
    if not any_subject:
        _check_common_names(names, thing_name)
    return AcceptedCsr(pem, received, parts.spki, names[0] if len(names) == 1 else None)


def _split(encoded: bytes) -> _Parts:
    information, algorithm, signature = _children(encoded, [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING])
    if not signature.content.startswith(_NO_UNUSED_BITS):
        raise CsrDerError
    inner = [der.INTEGER, der.SEQUENCE, der.SEQUENCE, der.CONTEXT_0]
    _, subject, spki, attributes = _children(information.encoding, inner)
    return _Parts(
        information=information.encoding,
        subject=subject.content,
        spki=spki.encoding,
        attributes=attributes.content,
        algorithm=algorithm.encoding,
        signature=signature.encoding,
    )


def _children(encoded: bytes, tags: list[int]) -> list[der.Element]:
    """Return the elements of a SEQUENCE.

    Raises:
        CsrDerError: `encoded` is not exactly one SEQUENCE, or its elements do not have these tags.
    """
    try:
        children = der.children(encoded)
    except ValueError as error:
        raise CsrDerError from error
    if [child.tag for child in children] != tags:
        raise CsrDerError
    return children


def _signature_algorithm(encoded: bytes) -> tuple[str, bytes]:
    """Return the object identifier in an AlgorithmIdentifier, and the AlgorithmIdentifier with canonical parameters."""
    try:
        algorithm, oid, parameters = algorithms.identifier(encoded)
    except ValueError as error:
        raise CsrDerError from error
    known = algorithms.SIGNATURES.get(oid)
    if known is None:
        return oid, encoded
    if parameters not in {b"", _NULL}:
        raise CsrDerError
    return oid, der.sequence(algorithm + _SIGNATURE_PARAMETERS[known.key])


def _check_signature_algorithm(oid: str, kind: str) -> None:
    """Check that the signature algorithm is accepted and matches the key's type."""
    known = algorithms.SIGNATURES.get(oid)
    if known is None:
        raise CsrSignatureAlgorithmError(algorithms.REFUSED_SIGNATURES.get(oid, "an unknown algorithm"))
    if known.key != kind:
        raise CsrSignatureAlgorithmError(f"{known.name}, but its key is {algorithms.KEYS[kind]}")


def _common_names(subject: bytes, kinds: frozenset[int]) -> list[str]:
    """Return every common name in a subject.

    Raises:
        CsrDerError: the subject is malformed.
        CsrSubjectError: a value is not a string of one of these types (DER tags).
    """
    try:
        relative_names = [der.children(name.encoding, der.SET) for name in der.elements(subject)]
        pairs = [der.children(attribute.encoding) for name in relative_names for attribute in name]
        oids = [der.object_identifier(kind.content) for kind, _ in pairs]
    except ValueError as error:
        raise CsrDerError from error
    if not all(relative_names):
        raise CsrDerError  # a relative distinguished name must not be empty, RFC 5280 §4.1.2.4
    texts = [_text(value, kinds) for _, value in pairs]
    return [text for oid, text in zip(oids, texts, strict=True) if oid == _COMMON_NAME]


def _text(value: der.Element, kinds: frozenset[int]) -> str:
    if value.tag not in kinds:
        raise CsrSubjectError(_NO_TEXT)
    try:
        return der.text(value)
    except ValueError as error:
        raise CsrSubjectError(_NOT_PRINTABLE if value.tag == der.PRINTABLE_STRING else _NO_TEXT) from error


def _load(encoded: bytes) -> CertificateSigningRequest:
    try:
        return load_der_x509_csr(encoded)
    except (ValueError, InvalidVersion) as error:
        raise CsrDerError from error


def _check_common_names(names: list[str], thing_name: str | None) -> None:
    if thing_name is None and len(names) != 1:
        raise CsrNamesNoThingError
    if len(names) != 1 or thing_name not in {None, *names}:
        raise CsrCommonNameError
    if len(names[0]) > _MAX_COMMON_NAME:
        raise CsrCommonNameLengthError
