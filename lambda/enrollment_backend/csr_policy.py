"""Is this CSR acceptable? Text in, a value or a named refusal out; no network, no clock.

What is verified here must be, byte for byte, what AWS IoT is asked to certify. So a request has one form on its way
there, and everything in it that could be encoded or read in a second way is refused: the structure is read twice, by
`cryptography` and as it lies there in DER. What its signature does not cover, the PEM around it and the parameters of
the signature algorithm, is written anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.x509 import CertificateSigningRequest, InvalidVersion, load_der_x509_csr

from enrollment_backend import algorithms, csr_attributes, csr_key, der, pem_block
from enrollment_backend.errors import (
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
# What follows the algorithm's object identifier: NULL for RSA (RFC 4055 §5), nothing for ECDSA (RFC 5758 §3.2). Either
# is taken for both: RFC 4055 §5 demands it for RSA, and mbedTLS 2.28 and tpm2-openssl 1.1 write NULL after ECDSA.
_SIGNATURE_PARAMETERS = {algorithms.RSA_KEY: _NULL, algorithms.EC_KEY: b""}

_COMMON_NAME = "2.5.4.3"  # RFC 5280, appendix A.1: id-at-commonName
# RFC 5280 §4.1.2.4 leaves the first two for new names, and §4.1.2.6 IA5String for addresses and domain components.
_STRINGS = frozenset({der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING})
# The older kinds that X.520 has as well, for subjects that are not read.
_ANY_STRINGS = _STRINGS | {der.NUMERIC_STRING, der.TELETEX_STRING, der.UNIVERSAL_STRING, der.BMP_STRING}

_NO_TEXT = "must consist of text, as UTF8String, PrintableString or IA5String"
_NOT_PRINTABLE = (
    "has a PrintableString with a character that a PrintableString cannot hold, such as an underscore; "
    "have it written as UTF8String"
)

_NO_UNUSED_BITS = b"\x00"  # X.690 §8.6.2; every signature is whole octets


@dataclass(frozen=True)
class AcceptedCsr:
    """A CSR that passed every guard.

    Attributes:
        pem: the one PEM block, labelled CERTIFICATE REQUEST, lines of 64 characters, LF line ends, none after the last
            line.
        spki: DER SubjectPublicKeyInfo of its key (RFC 5280 §4.1.2.7).
        common_name: its one common name; None if it has none or several, which takes `any_subject`.
    """

    pem: str
    spki: bytes
    common_name: str | None


@dataclass(frozen=True)
class _Parts:
    """A CertificationRequest (RFC 2986 §4) as it lies there.

    Of `subject` and `attributes` the contents octets, of the others the whole encoding.
    """

    information: bytes
    subject: bytes
    spki: bytes
    attributes: bytes
    algorithm: bytes
    signature: bytes


def accept(text: str, thing_name: str | None, *, any_subject: bool = False) -> AcceptedCsr:
    """Decide whether a PKCS#10 request (RFC 2986 §4) may get a certificate for a Thing.

    Args:
        text: the CSR in PEM, see `pem_block.decode`.
        thing_name: the Thing; None leaves the name to the CSR, whose common name the caller then has to check.
        any_subject: whether the subject may be anything that X.520 can encode, whatever the Thing is.

    Returns:
        The CSR in the one form that goes to AWS IoT.

    Raises:
        CsrRefusedError: one of its classes for each rule.

    Does not check whether the key was used before, whether others have it or one of its primes too, where it lives, or
    what the subject says beside the common name. Of an ECDSA signature's two values of s it takes either.
    """
    parts = _split(pem_block.decode(text))
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
    return AcceptedCsr(pem, parts.spki, names[0] if len(names) == 1 else None)


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
    """Return what the one SEQUENCE that `encoded` must be consists of; its tags must be these."""
    try:
        children = der.children(encoded)
    except ValueError as error:
        raise CsrDerError from error
    if [child.tag for child in children] != tags:
        raise CsrDerError
    return children


def _signature_algorithm(encoded: bytes) -> tuple[str, bytes]:
    """Return which algorithm an AlgorithmIdentifier names, and the identifier with the parameters put right."""
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
    """Check that the algorithm is on the list, and the key's: PKCS#10 names it once only."""
    known = algorithms.SIGNATURES.get(oid)
    if known is None:
        raise CsrSignatureAlgorithmError(algorithms.REFUSED_SIGNATURES.get(oid, "an unknown algorithm"))
    if known.key != kind:
        raise CsrSignatureAlgorithmError(f"{known.name}, but its key is {algorithms.KEYS[kind]}")


def _common_names(subject: bytes, kinds: frozenset[int]) -> list[str]:
    """Return every common name there is, of a subject whose strings are of these kinds alone."""
    try:
        relative_names = [der.children(name.encoding, der.SET) for name in der.elements(subject)]
        pairs = [der.children(attribute.encoding) for name in relative_names for attribute in name]
        oids = [der.object_identifier(kind.content) for kind, _ in pairs]
    except ValueError as error:
        raise CsrDerError from error
    if not all(relative_names):
        raise CsrDerError  # each has at least one attribute, RFC 5280 §4.1.2.4
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
