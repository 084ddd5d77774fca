"""S9: what a CSR may ask for. Every refused case goes through the real handler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from asn1crypto import core
from cryptography import x509

from enrollment_backend.csr_policy import accept
from tests.support import csr_factory as make
from tests.support.csr_cases import (
    CHALLENGE,
    CHALLENGE_PASSWORD,
    CRITICAL,
    EXTENSION_REQUEST,
    HARMLESS,
    NULL,
    UNKNOWN,
    UNSTRUCTURED,
    asked,
    cases,
    key_usage,
    with_attributes,
)
from tests.support.csr_factory import THING, pem
from tests.support.deployment import Deployment

KEY_USAGE, BASIC_CONSTRAINTS, SAN = "2.5.29.15", "2.5.29.19", "2.5.29.17"


def carrying(*attributes: bytes) -> str:
    """Return a CSR with these attributes."""
    return pem(make.forged(attributes=b"".join(attributes)))


def asking(*extensions: bytes) -> str:
    """Return a CSR that asks for these extensions."""
    return carrying(make.extension_request(*extensions))


@cases(
    {
        **{name: partial(asking, one) for name, one in HARMLESS.items()},
        "all of them": lambda: asking(*HARMLESS.values()),
        "key usage with bits that it could leave out": lambda: asking(
            make.extension(KEY_USAGE, b"\x03\x03\x07\x80\x00")
        ),
        "key usage of nothing": lambda: asking(make.extension(KEY_USAGE, b"\x03\x01\x00")),
        "x400Address": lambda: asking(make.extension(SAN, b"\x30\x04\xa3\x02\x30\x00")),
        "challenge password": lambda: carrying(CHALLENGE),
        "unstructured name": lambda: carrying(UNSTRUCTURED),
        "challenge password as BMPString": lambda: carrying(
            make.attribute(CHALLENGE_PASSWORD, core.BMPString("not a secret").dump())
        ),
        "everything": lambda: pem(with_attributes()),
    }
)
def test_s9_attributes_that_do_no_harm_are_taken_as_they_are(text_of: Callable[[], str]) -> None:
    """S9: what keytool, step, cfssl and GnuTLS write by themselves stays in the request, which is signed with it."""
    text = text_of()
    assert accept(text, THING).pem + "\n" == text


AS_A_CA = "ask to be a CA (basicConstraints with CA:TRUE)"
TO_SIGN = "request the key usages of a CA (keyCertSign, cRLSign)"
TWICE = "request the same extension twice"
ATTRIBUTE_TWICE = "carry the same attribute twice"
OTHERS = "carry attributes other than challengePassword, unstructuredName and extensionRequest"
VALUES = "carry an attribute with no value or with several"
BROKEN = "carry an attribute or extension that cannot be decoded"
CA_FALSE = HARMLESS["CA:FALSE"]

ATTRIBUTES: dict[str, tuple[Callable[[], str], str]] = {
    "CA:TRUE": (lambda: asking(asked(x509.BasicConstraints(ca=True, path_length=None), critical=True)), AS_A_CA),
    "CA:TRUE, not critical": (lambda: asking(asked(x509.BasicConstraints(ca=True, path_length=None))), AS_A_CA),
    "CA:TRUE with a path": (lambda: asking(asked(x509.BasicConstraints(ca=True, path_length=1))), AS_A_CA),
    "CA:TRUE behind others": (
        lambda: asking(HARMLESS["key usage"], asked(x509.BasicConstraints(ca=True, path_length=None))),
        AS_A_CA,
    ),
    "keyCertSign": (lambda: asking(asked(key_usage(key_cert_sign=True), critical=True)), TO_SIGN),
    "cRLSign": (lambda: asking(asked(key_usage(crl_sign=True))), TO_SIGN),
    "keyCertSign among others": (
        lambda: asking(
            asked(key_usage(digital_signature=True, key_cert_sign=True, key_agreement=True, decipher_only=True))
        ),
        TO_SIGN,
    ),
    "unknown critical": (
        lambda: asking(make.extension(UNKNOWN, b"\x05\x00", CRITICAL)),
        "request a critical extension that is unknown here",
    ),
    "known, critical, and none of a device's": (
        lambda: asking(asked(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=True)),
        "request a critical extension that is unknown here",
    ),
    "the same twice": (lambda: asking(CA_FALSE, CA_FALSE), TWICE),
    "an unknown one twice": (lambda: asking(make.extension(UNKNOWN, b""), make.extension(UNKNOWN, b"x")), TWICE),
    "CA:FALSE, then CA:TRUE": (
        lambda: asking(CA_FALSE, asked(x509.BasicConstraints(ca=True, path_length=None))),
        TWICE,
    ),
    "two requests": (
        lambda: carrying(make.extension_request(CA_FALSE), make.extension_request(HARMLESS["key usage"])),
        ATTRIBUTE_TWICE,
    ),
    "two passwords": (lambda: carrying(CHALLENGE, CHALLENGE), ATTRIBUTE_TWICE),
    "in microsoft's attribute": (
        lambda: carrying(make.attribute("1.3.6.1.4.1.311.2.1.14", make.tlv(0x30, CA_FALSE))),
        OTHERS,
    ),
    "microsoft's version of the system": (
        lambda: carrying(make.attribute("1.3.6.1.4.1.311.13.2.3", core.IA5String("10.0").dump())),
        OTHERS,
    ),
    "two values": (lambda: carrying(make.attribute(EXTENSION_REQUEST, *[make.tlv(0x30, CA_FALSE)] * 2)), VALUES),
    "no value": (lambda: carrying(make.attribute(EXTENSION_REQUEST)), VALUES),
    "two passwords in one": (
        lambda: carrying(make.attribute(CHALLENGE_PASSWORD, *[core.UTF8String("x").dump()] * 2)),
        VALUES,
    ),
    "none at all": (lambda: asking(), BROKEN),
    "junk": (lambda: carrying(b"junk"), BROKEN),
    "an attribute that is a set": (lambda: carrying(b"\x31" + CHALLENGE[1:]), BROKEN),
    "an attribute without values": (lambda: carrying(make.tlv(0x30, core.ObjectIdentifier(UNKNOWN).dump())), BROKEN),
    "an attribute with a third part": (lambda: carrying(make.tlv(0x30, CHALLENGE[2:] + NULL)), BROKEN),
    "values in a sequence": (lambda: carrying(CHALLENGE.replace(b"\x31\x0e", b"\x30\x0e")), BROKEN),
    "a password that is no text": (
        lambda: carrying(make.attribute(CHALLENGE_PASSWORD, core.Integer(1).dump())),
        BROKEN,
    ),
    "a password of broken UTF-8": (lambda: carrying(make.attribute(CHALLENGE_PASSWORD, b"\x0c\x01\xff")), BROKEN),
    "a request that is a set": (lambda: carrying(make.attribute(EXTENSION_REQUEST, make.tlv(0x31, CA_FALSE))), BROKEN),
    "an extension that is a set": (lambda: asking(b"\x31" + CA_FALSE[1:]), BROKEN),
    "critical is FALSE in so many words": (lambda: asking(make.extension(UNKNOWN, b"", b"\x01\x01\x00")), BROKEN),
    "critical is 1": (lambda: asking(make.extension(UNKNOWN, b"", b"\x01\x01\x01")), BROKEN),
    "critical is no BOOLEAN": (lambda: asking(make.extension(UNKNOWN, b"", b"\x02\x01\xff")), BROKEN),
    "critical twice": (lambda: asking(make.extension(UNKNOWN, b"", CRITICAL * 2)), BROKEN),
    "no value in an extension": (lambda: asking(make.tlv(0x30, core.ObjectIdentifier(UNKNOWN).dump())), BROKEN),
    "a value in a bit string": (
        lambda: asking(make.tlv(0x30, core.ObjectIdentifier(UNKNOWN).dump() + b"\x03\x01\x00")),
        BROKEN,
    ),
    "an extension of no kind": (lambda: asking(make.tlv(0x30, b"\x04\x00\x04\x00")), BROKEN),
    **{
        name: (partial(asking, make.extension(oid, value)), BROKEN)
        for name, oid, value in (
            ("CA:FALSE in so many words", BASIC_CONSTRAINTS, b"\x30\x03\x01\x01\x00"),
            ("CA is 1", BASIC_CONSTRAINTS, b"\x30\x03\x01\x01\x01"),
            ("a path of no CA", BASIC_CONSTRAINTS, b"\x30\x03\x02\x01\x00"),
            ("basic constraints with something behind", BASIC_CONSTRAINTS, b"\x30\x00\x05\x00"),
            ("basic constraints of nothing", BASIC_CONSTRAINTS, b""),
            ("key usage of no octet", KEY_USAGE, b"\x03\x00"),
            ("key usage with unused bits set", KEY_USAGE, b"\x03\x02\x07\xff"),
            ("key usage with nine unused bits", KEY_USAGE, b"\x03\x02\x09\x00"),
            ("key usage with unused bits of nothing", KEY_USAGE, b"\x03\x01\x01"),
            ("key usage twice", KEY_USAGE, b"\x03\x02\x07\x80" * 2),
            ("key usage as an integer", KEY_USAGE, b"\x02\x01\x04"),
            ("key usage in pieces", KEY_USAGE, b"\x23\x04\x03\x02\x02\x04"),
            ("extended key usage of nothing", "2.5.29.37", b"\x30\x00"),
            ("extended key usage that is text", "2.5.29.37", b"\x30\x02\x0c\x00"),
            ("an identifier without its type", "2.5.29.14", bytes(20)),
            ("an identifier in pieces", "2.5.29.14", b"\x24\x00"),
            ("no name", SAN, b"\x30\x00"),
            ("a name of no kind", SAN, b"\x30\x02\x89\x00"),
            ("a name that is not tagged", SAN, b"\x30\x02\x16\x00"),
            ("a host outside ascii", SAN, b"\x30\x04\x82\x02\xc3\xa9"),
            ("an address of five octets", SAN, b"\x30\x07\x87\x05abcde"),
            ("a directory name that is cut off", SAN, b"\x30\x03\xa4\x01\x30"),
        )
    },
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_s9_a_csr_that_asks_for_more_than_a_device_gets_is_refused(backend: Deployment, name: str) -> None:
    """S9: a CA's powers, what is critical and unknown, what is there twice, and what can be read in two ways."""
    text_of, must_not = ATTRIBUTES[name]
    answer = backend.enroll(text_of(), THING)
    assert backend.refused(answer, 400, "csr-attributes-not-allowed", text_of(), "not a secret")
    assert answer.json["detail"] == f"The CSR must not {must_not}."


def test_s9_attributes_in_another_order_than_ders_are_refused(backend: Deployment) -> None:
    """S9: a SET OF is sorted in DER (X.690 §11.6); another order would be a second way to encode the same request."""
    assert CHALLENGE > UNSTRUCTURED
    text = carrying(CHALLENGE, UNSTRUCTURED)
    answer = backend.enroll(text, THING)
    assert backend.refused(answer, 400, "csr-attributes-not-allowed", text)
    assert "in an order other than DER" in answer.json["detail"]
