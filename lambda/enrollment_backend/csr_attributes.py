"""Checks the attributes of a CSR. Pure: bytes in, an error if they are not acceptable.

AWS IoT decides what a certificate may be used for, whatever the CSR requests. So attributes that tools add by
themselves are accepted, and stay in the request, since its signature covers them. An attribute that requests the powers
of a CA, or that can be read in two ways, is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from enrollment_backend import der
from enrollment_backend.csr_errors import CsrAttributesError

_CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # noqa: S105 - RFC 2985 §5.4.1
_UNSTRUCTURED_NAME = "1.2.840.113549.1.9.2"  # RFC 2985 §5.2.2
_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"  # RFC 2985 §5.4.2

_TRUE = b"\xff"  # X.690 §11.1
_CA_KEY_USAGES = 0b0000_0110  # keyCertSign and cRLSign in the first octet of KeyUsage (RFC 5280 §4.2.1.3)
_IP_ADDRESSES = {4, 16}  # octets, RFC 5280 §4.2.1.6

_UNDECODABLE = "carry an attribute or extension that cannot be decoded"


def check(attributes: bytes) -> None:
    """Check that the attributes of a CSR are acceptable.

    Args:
        attributes: the contents octets of CertificationRequestInfo's `attributes` (RFC 2986 §4.1).

    Raises:
        CsrAttributesError: the attributes are not in DER order (X.690 §11.6); an attribute is unknown, occurs twice, or
            does not have exactly one value; an extension occurs twice, is critical and unknown, or requests the powers
            of a CA; or one of them is not valid DER.

    Does not check anything else that the extensions request.
    """
    try:
        _check_attributes(attributes)
    except ValueError as error:
        raise CsrAttributesError(_UNDECODABLE) from error


def _check_attributes(attributes: bytes) -> None:
    known: set[str] = set()
    listed = der.elements(attributes)
    if [attribute.encoding for attribute in listed] != sorted(attribute.encoding for attribute in listed):
        raise CsrAttributesError("carry attributes in an order other than DER's (X.690 §11.6), as node-forge does")
    for attribute in listed:
        kind, values = der.children(attribute.encoding)
        oid = _oid(kind)
        if oid in known:
            raise CsrAttributesError("carry the same attribute twice")
        known.add(oid)
        if oid not in _ATTRIBUTES:
            raise CsrAttributesError(
                "carry attributes other than challengePassword, unstructuredName and extensionRequest"
            )
        children = der.children(values.encoding, der.SET)
        if len(children) != 1:
            raise CsrAttributesError("carry an attribute with no value or with several")
        _ATTRIBUTES[oid](children[0])


def _check_extensions(value: der.Element) -> None:
    extensions = der.children(value.encoding)
    if not extensions:
        raise ValueError("no extension (RFC 5280 §4.1)")
    known: set[str] = set()
    for extension in extensions:
        kind, *criticality, content = der.children(extension.encoding)
        oid, critical = _oid(kind), _is_critical(criticality)
        if oid in known:
            raise CsrAttributesError("request the same extension twice")
        known.add(oid)
        octets = _content(content, der.OCTET_STRING)
        if oid in _EXTENSIONS:
            _EXTENSIONS[oid](octets)
        elif critical:
            raise CsrAttributesError("request a critical extension that is unknown here")


def _is_critical(criticality: list[der.Element]) -> bool:
    """Return an extension's `critical`: TRUE if present, FALSE if absent, since DER omits defaults (X.690 §11.5)."""
    if not criticality:
        return False
    (critical,) = criticality
    if _content(critical, der.BOOLEAN) != _TRUE:
        raise ValueError("not TRUE in DER")
    return True


def _check_basic_constraints(octets: bytes) -> None:
    match [(child.tag, child.content) for child in der.children(octets)]:
        case []:
            return
        case [(der.BOOLEAN, content), *_] if content == _TRUE:
            raise CsrAttributesError("ask to be a CA (basicConstraints with CA:TRUE)")
        case _:
            raise ValueError("not the basic constraints of an end entity")


def _check_key_usage(octets: bytes) -> None:
    (usage,) = der.elements(octets)
    unused, *bits = _content(usage, der.BIT_STRING)
    if unused > 7 or (unused and not bits) or (bits and bits[-1] & (1 << unused) - 1):
        raise ValueError("not a BIT STRING in DER")
    if bits and bits[0] & _CA_KEY_USAGES:
        raise CsrAttributesError("request the key usages of a CA (keyCertSign, cRLSign)")


def _check_extended_key_usage(octets: bytes) -> None:
    usages = der.children(octets)
    if not usages:
        raise ValueError("no usage (RFC 5280 §4.2.1.12)")
    for usage in usages:
        _oid(usage)


def _check_subject_key_identifier(octets: bytes) -> None:
    (identifier,) = der.elements(octets)
    _content(identifier, der.OCTET_STRING)


def _check_subject_alternative_name(octets: bytes) -> None:
    names = der.children(octets)
    if not names:
        raise ValueError("no name (RFC 5280 §4.2.1.6)")
    for name in names:
        if name.tag not in _GENERAL_NAMES:
            raise ValueError("not a GeneralName")
        _GENERAL_NAMES[name.tag](name.content)


def _check_ia5(octets: bytes) -> None:
    octets.decode("ascii")


def _check_ip_address(octets: bytes) -> None:
    if len(octets) not in _IP_ADDRESSES:
        raise ValueError("not an IPv4 or IPv6 address")


def _oid(element: der.Element) -> str:
    return der.object_identifier(_content(element, der.OBJECT_IDENTIFIER))


def _content(element: der.Element, tag: int) -> bytes:
    if element.tag != tag:
        raise ValueError("unexpected type")
    return element.content


_ATTRIBUTES: dict[str, Callable[[der.Element], object]] = {
    _CHALLENGE_PASSWORD: der.text,
    _UNSTRUCTURED_NAME: der.text,
    _EXTENSION_REQUEST: _check_extensions,
}
# RFC 5280 §4.2.1. The value of an extension that is unknown and not critical may be ignored (§4.2).
_EXTENSIONS: dict[str, Callable[[bytes], None]] = {
    "2.5.29.14": _check_subject_key_identifier,
    "2.5.29.15": _check_key_usage,
    "2.5.29.17": _check_subject_alternative_name,
    "2.5.29.19": _check_basic_constraints,
    "2.5.29.37": _check_extended_key_usage,
}
_GENERAL_NAMES: dict[int, Callable[[bytes], object]] = {
    0xA0: der.elements,  # otherName
    0x81: _check_ia5,  # rfc822Name
    0x82: _check_ia5,  # dNSName
    0xA3: der.elements,  # x400Address
    0xA4: der.elements,  # directoryName
    0xA5: der.elements,  # ediPartyName
    0x86: _check_ia5,  # uniformResourceIdentifier
    0x87: _check_ip_address,
    0x88: der.object_identifier,  # registeredID
}
