"""S4, S10: which subjects get no certificate. The refused cases go through the real handler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from enrollment_backend.csr_errors import (
    CsrCommonNameLengthError,
    CsrDerError,
    CsrNamesNoThingError,
    CsrRefusedError,
    CsrSignatureAlgorithmError,
    CsrSubjectError,
)
from enrollment_backend.csr_policy import accept
from tests.support import csr_factory as make
from tests.support.csr_cases import NULL, cases, check
from tests.support.csr_factory import THING, pem, pem_of, request
from tests.support.deployment import Deployment


def named(value: core.Asn1Value) -> str:
    """Return a CSR whose common name is that ASN.1 string."""
    return pem(make.forged(common_name=value))


@cases(
    {
        "missing": lambda: pem_of(
            x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(make.ec_key(), hashes.SHA256())
        ),
        "twice": lambda: pem_of(request(None, THING, THING)),
        "twice, the right one last": lambda: pem_of(request(None, "other", THING)),
        "another name": lambda: pem_of(request(None, "press-18")),
        "another case": lambda: pem_of(request(None, THING.upper())),
        "65 characters": lambda: named(core.UTF8String("x" * 65)),
        "blank behind": lambda: pem_of(request(None, THING + " ")),
        "NUL behind": lambda: named(core.UTF8String(THING + "\x00.evil")),
        "newline behind": lambda: named(core.UTF8String(THING + "\n")),
        "look-alike letters": lambda: pem_of(request(None, "pr\u0435ss-17")),
        "wide letters": lambda: pem_of(request(None, "\uff50ress-17")),
        "letters composed": lambda: pem_of(request(None, "pre\u0301ss-17")),
        "a hyphen that is none": lambda: pem_of(request(None, "press\u201117")),
        "a digit of another script": lambda: pem_of(request(None, "press-1\u0667")),
        "a blank without width": lambda: pem_of(request(None, THING + "\u200b")),
        "an override of direction": lambda: pem_of(request(None, "\u202e" + THING)),
        "empty": lambda: named(core.UTF8String("")),
        "only a part": lambda: pem_of(request(None, THING[:-1])),
        "only in another attribute": lambda: pem_of(request(None, "other", units=(THING,))),
    }
)
def test_s10_a_subject_that_does_not_name_the_thing_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S10: one common name, the Thing's, character for character."""
    check(backend, text_of(), "csr-common-name-mismatch")


def test_s10_a_common_name_of_65_characters_is_refused_even_if_it_is_the_things(backend: Deployment) -> None:
    """S10: a Thing may have 128 characters, a common name 64 (ub-common-name)."""
    name = "x" * 65
    text = named(core.UTF8String(name))
    assert backend.refused(backend.enroll(text, name), 400, "csr-common-name-too-long", text)


NO_TEXT = "must consist of text, as UTF8String, PrintableString or IA5String"
NOT_PRINTABLE = (
    "has a PrintableString with a character that is not allowed in one, such as an underscore; "
    "encode it as UTF8String instead"
)
NO_STRINGS = {
    "VisibleString": core.VisibleString(THING),
    "BIT STRING": core.OctetBitString(THING.encode("ascii")),
    "INTEGER": core.Integer(17),
    "SEQUENCE": core.Sequence.load(b"\x30\x00"),
    "UTF8String in pieces": core.Sequence.load(b"\x30\x00").retag({"implicit": 1}),
    "broken UTF-8": core.UTF8String(contents=b"press-1\xff"),
    "IA5String outside ascii": core.IA5String(contents=b"press-1\xff"),
}
OLD_STRINGS = {
    "BMPString": core.BMPString(THING),
    "TeletexString": core.TeletexString(THING),
    "UniversalString": core.UniversalString(THING),
    "NumericString": core.NumericString("17"),
}
NOT_PRINTABLE_STRINGS = {
    name: core.PrintableString(contents=contents)
    for name, contents in {
        "underscore": b"gw_1",
        "at": b"gw@example.com",
        "ampersand": b"Meier & Co.",
        "asterisk": b"*.example.com",
        "UTF-8": "Gerät".encode(),
        "Latin-1": "Gerät".encode("latin-1"),
        "NUL": b"gw\x001",
        "line end": b"gw-1\n",
    }.items()
}


@pytest.mark.parametrize("value", [*NO_STRINGS.values(), *OLD_STRINGS.values()], ids=[*NO_STRINGS, *OLD_STRINGS])
def test_s10_a_subject_of_anything_but_plain_text_is_refused(backend: Deployment, value: core.Asn1Value) -> None:
    """S10: strings that need a guess at their meaning, and values that are no strings at all."""
    answer = backend.enroll(named(value), THING)
    assert backend.refused(answer, 400, "csr-subject-invalid", named(value))
    assert answer.json["detail"] == f"The CSR's subject {NO_TEXT}."


@pytest.mark.parametrize("path", ["/v1/certificates", "/getCertificate"])
@pytest.mark.parametrize("value", NOT_PRINTABLE_STRINGS.values(), ids=NOT_PRINTABLE_STRINGS)
def test_s10_what_no_printable_string_can_hold_is_told(backend: Deployment, path: str, value: core.Asn1Value) -> None:
    """S10: node-forge writes any text as PrintableString; the error names the kind and the one to take."""
    answer = backend.post(path, {"csr": named(value), "thingName": THING})
    assert backend.refused(answer, 400, "csr-subject-invalid", named(value))
    assert answer.json["detail"] == f"The CSR's subject {NOT_PRINTABLE}."


def test_s10_the_algorithm_is_judged_before_the_subject() -> None:
    """S5, S10: who has to change both hears of the one first that no other way of writing the subject cures."""
    value = NOT_PRINTABLE_STRINGS["underscore"]
    with pytest.raises(CsrSignatureAlgorithmError):
        accept(pem(make.forged(common_name=value, algorithm={"algorithm": "sha1_ecdsa"})), THING)


ARTICLE = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "JP"),
        x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "Tokyo"),
        x509.NameAttribute(NameOID.LOCALITY_NAME, "Meguro"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Amazon Web Services Japan K.K."),
        x509.NameAttribute(NameOID.COMMON_NAME, "AWS IoT Certificate"),
    ]
)


def of_subject(*attributes: x509.NameAttribute[str | bytes]) -> str:
    """Return a CSR with this subject."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(list(attributes)))
    return pem_of(builder.sign(make.ec_key(), hashes.SHA256()))


@pytest.mark.parametrize(
    ("text_of", "common_name"),
    [
        pytest.param(lambda: of_subject(*ARTICLE), "AWS IoT Certificate", id="the article's"),
        pytest.param(lambda: of_subject(), None, id="empty"),
        pytest.param(lambda: of_subject(*list(ARTICLE)[:-1]), None, id="no common name"),
        pytest.param(lambda: pem_of(request(None, "a", "b")), None, id="two common names"),
        pytest.param(lambda: pem_of(request(None, THING, THING)), None, id="the same twice"),
        pytest.param(lambda: named(core.UTF8String("x" * 65)), "x" * 65, id="65 characters"),
        pytest.param(lambda: named(core.UTF8String("")), "", id="no character"),
        pytest.param(lambda: named(core.UTF8String("a\x00\nb")), "a\x00\nb", id="NUL and newline"),
        pytest.param(lambda: named(core.UTF8String("Gerät 1 \U0001f511")), "Gerät 1 \U0001f511", id="any letters"),
        pytest.param(lambda: named(core.BMPString("Gerät 1")), "Gerät 1", id="BMPString"),
        pytest.param(lambda: named(core.TeletexString(contents=b"Ger\xe4t 1")), "Gerät 1", id="TeletexString"),
        pytest.param(lambda: named(core.UniversalString("Gerät 1")), "Gerät 1", id="UniversalString"),
        pytest.param(lambda: named(core.NumericString("17")), "17", id="NumericString"),
        pytest.param(lambda: named(core.PrintableString("a b")), "a b", id="PrintableString"),
    ],
)
def test_s10_any_subject_is_right_where_the_thing_is_named_beside_it(
    text_of: Callable[[], str], common_name: str | None
) -> None:
    """S10: no rule about the subject but that it is encoded as X.520 has it; the request goes on as it is."""
    text = text_of()
    accepted = accept(text, THING, any_subject=True)
    assert (accepted.pem + "\n", accepted.common_name) == (text, common_name)


@pytest.mark.parametrize("value", NO_STRINGS.values(), ids=NO_STRINGS)
def test_s10_any_subject_is_text_all_the_same(value: core.Asn1Value) -> None:
    """S10: what is no string of X.520, or a broken one, is refused even there."""
    with pytest.raises(CsrSubjectError):
        accept(named(value), THING, any_subject=True)


@cases(
    {
        "BMPString of half a character": lambda: named(core.BMPString(contents=b"\x00")),
        "BMPString with a surrogate pair": lambda: named(core.BMPString(contents=b"\xd8\x3d\xdd\x11")),
        "UniversalString beyond Unicode": lambda: named(core.UniversalString(contents=b"\x00\x11\x00\x00")),
        "NumericString with a letter": lambda: named(core.NumericString(contents=b"1a")),
    }
)
def test_s10_any_subject_holds_what_its_strings_can(text_of: Callable[[], str]) -> None:
    """S10: whether `cryptography` looks at such a string or not, it has the one verdict."""
    with pytest.raises(CsrSubjectError):
        accept(text_of(), THING, any_subject=True)


ATTRIBUTE = make.tlv(0x30, core.ObjectIdentifier("2.5.4.3").dump() + core.UTF8String(THING).dump())


def with_subject(content: bytes) -> str:
    """Return a CSR whose subject has these contents octets."""
    return pem(make.forged(subject=make.tlv(0x30, content)))


@cases(
    {
        "a relative name of nothing": lambda: with_subject(b"\x31\x00"),
        "a relative name that is a sequence": lambda: with_subject(make.tlv(0x30, ATTRIBUTE)),
        "an attribute that is a set": lambda: with_subject(make.tlv(0x31, b"\x31" + ATTRIBUTE[1:])),
        "an attribute of one part": lambda: with_subject(make.tlv(0x31, b"\x30\x05\x06\x03\x55\x04\x03")),
        "an attribute of three parts": lambda: with_subject(make.tlv(0x31, make.tlv(0x30, ATTRIBUTE[2:] + NULL))),
        "an attribute of no kind": lambda: with_subject(make.tlv(0x31, b"\x30\x04\x0c\x00\x0c\x00")),
        "a kind that is cut off": lambda: with_subject(make.tlv(0x31, b"\x30\x05\x06\x01\x80\x0c\x00")),
        "two attributes in another order than der's": lambda: with_subject(
            make.tlv(0x31, ATTRIBUTE + ATTRIBUTE.replace(b"\x55\x04\x03", b"\x55\x04\x02"))
        ),
    }
)
@pytest.mark.parametrize("any_subject", [False, True])
def test_s4_a_subject_that_is_no_name_is_refused(text_of: Callable[[], str], any_subject: bool) -> None:
    """S4: a Name is a SEQUENCE OF SET OF SEQUENCE of two, whatever is in it (RFC 5280 §4.1.2.4)."""
    with pytest.raises(CsrDerError):
        accept(text_of(), THING, any_subject=any_subject)


@pytest.mark.parametrize(
    ("text_of", "refusal"),
    [
        pytest.param(lambda: of_subject(), CsrNamesNoThingError, id="missing"),
        pytest.param(lambda: pem_of(request(None, "a", "b")), CsrNamesNoThingError, id="several"),
        pytest.param(lambda: named(core.UTF8String("x" * 65)), CsrCommonNameLengthError, id="65 characters"),
    ],
)
def test_s10_a_csr_that_has_to_name_the_thing_and_does_not_is_told_the_other_way(
    text_of: Callable[[], str], refusal: type[CsrRefusedError]
) -> None:
    """S10: without a Thing's name beside it, a CSR needs exactly one common name."""
    with pytest.raises(refusal):
        accept(text_of(), None)
    assert '{"thingName": "NAME", "csr": "-----BEGIN CERTIFICATE REQUEST-----\\n..."}' in CsrNamesNoThingError.detail


def test_s10_a_common_name_may_be_a_printable_string_too(backend: Deployment) -> None:
    """S10: some devices write PrintableString; the value counts (RFC 5280 §4.1.2.4)."""
    assert backend.enroll(named(core.PrintableString(THING)), THING).status == 201
