"""Certificates are read strictly: one PEM block that holds one certificate, or a refusal."""

from __future__ import annotations

import base64
from functools import cache

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hsm_enroll.errors import ForeignCertificateError
from hsm_enroll.key import KeyType
from hsm_enroll.x509.certificate import read_certificate, subject_text
from tests.support.self_signed import armoured, der, pem, self_signed
from tests.support.software_signer import public_key_info, software_key


@cache
def _pem() -> str:
    return pem(self_signed())


@pytest.mark.parametrize("with_extensions", [False, True])
@pytest.mark.parametrize("key_type", KeyType)
def test_a_certificate_is_read_as_another_library_reads_it(key_type: KeyType, with_extensions: bool) -> None:
    """Key, names, serial number and dates are those that ``cryptography`` put in, and not a byte is lost."""
    made = self_signed(key_type, with_extensions=with_extensions)
    certificate = read_certificate(pem(made))

    assert certificate.dump() == der(made)
    assert certificate.public_key.dump() == public_key_info(software_key(key_type))
    assert certificate.subject.dump() == made.subject.public_bytes()
    assert certificate.serial_number == made.serial_number
    assert certificate.not_valid_before == made.not_valid_before_utc
    assert certificate.not_valid_after == made.not_valid_after_utc


@pytest.mark.parametrize(
    "blank",
    [
        lambda text: text.strip(),
        lambda text: f"\n\n \t{text}\n \n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace("\n", " \n"),
    ],
)
def test_blanks_do_no_harm(blank: object) -> None:
    """Blanks around the block, other line ends and blank lines are what editors and transports do."""
    assert callable(blank)
    assert read_certificate(blank(_pem())).dump() == read_certificate(_pem()).dump()


def _with_line(text: str, line: str, position: int) -> str:
    lines = text.splitlines()
    return "\n".join([*lines[:position], line, *lines[position:]]) + "\n"


_KEY = software_key(KeyType.EC_P256).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)

_REFUSED = {
    "empty": "",
    "blank": " \n",
    "text": "<html><body>Please log in</body></html>",
    "no armour": base64.b64encode(der(self_signed())).decode(),
    "two blocks": _pem() + _pem(),
    "two blocks without a line between": _pem().strip() + _pem(),
    "a key after it": _pem() + _KEY.decode(),
    "a key before it": _KEY.decode() + _pem(),
    "a key alone": _KEY.decode(),
    "text before it": f"subject=CN = gateway\n{_pem()}",
    "text after it": f"{_pem()}subject=CN = gateway\n",
    "a byte order mark": f"\ufeff{_pem()}",
    "NUL before it": f"\0{_pem()}",
    "another label": _pem().replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
    "an old label": _pem().replace("CERTIFICATE", "X509 CERTIFICATE"),
    "a request's label": _pem().replace("CERTIFICATE", "CERTIFICATE REQUEST"),
    "labels that differ": _pem().replace("END CERTIFICATE", "END X509 CERTIFICATE"),
    "no end": _pem().replace("-----END CERTIFICATE-----", ""),
    "no beginning": _pem().replace("-----BEGIN CERTIFICATE-----", ""),
    "a second end": _with_line(_pem(), "-----END CERTIFICATE-----", -1),
    "another end inside": _with_line(_pem(), "-----END KEY-----", -1),
    "a header": _with_line(_pem(), "Proc-Type: 4,ENCRYPTED", 1),
    "a header and a blank line": _with_line(_pem(), "Comment: a\n", 1),
    "a word inside": _with_line(_pem(), "junk", -1),
    "a letter beyond ASCII inside": _with_line(_pem(), "ä", 1),
    "a blank beyond ASCII inside": _with_line(_pem(), "\N{EM SPACE}", 2),
    "letters beyond the alphabet inside": _with_line(_pem(), "!!", 1),
    "no lines at all": _pem().replace("\n", ""),
    "nothing in it": armoured(b""),
    "padding in the middle": _with_line(_pem(), "AA==", 2),
    "a letter less": _pem().replace("M", "", 1),
    "other DER in it": armoured(public_key_info(software_key(KeyType.EC_P256))),
    "an empty sequence": armoured(b"\x30\x00"),
    "a byte after it": armoured(der(self_signed()) + b"\0"),
    "another one after it in one block": armoured(der(self_signed()) * 2),
    "nested without end": armoured(b"\x30\x80" * 5_000),
}


@pytest.mark.parametrize("text", _REFUSED.values(), ids=_REFUSED)
def test_what_is_not_exactly_one_certificate_is_refused(text: str) -> None:
    """D18: two blocks, another label, text around or inside, junk: refused, exit status 33, nothing else raised."""
    with pytest.raises(ForeignCertificateError) as caught:
        read_certificate(text)
    assert caught.value.exit_status == 33


@pytest.mark.parametrize("with_extensions", [False, True])
def test_a_certificate_cut_at_any_byte_is_refused(with_extensions: bool) -> None:
    """D18: no beginning of a certificate passes for one."""
    whole = der(self_signed(with_extensions=with_extensions))
    for length in range(len(whole)):
        with pytest.raises(ForeignCertificateError):
            read_certificate(armoured(whole[:length]))


def test_a_file_cut_at_any_character_is_refused() -> None:
    """D18: no beginning of a PEM file passes for one."""
    for length in range(len(_pem().rstrip())):
        with pytest.raises(ForeignCertificateError):
            read_certificate(_pem()[:length])


@pytest.mark.parametrize(
    "text",
    [
        "CN=gateway-17",
        "UID=jsmith,DC=example,DC=net",
        "OU=Sales+CN=J.  Smith,DC=example,DC=net",
        r"CN=James \"Jim\" Smith\, III,DC=example,DC=net",
        r"CN=Before\0dAfter,DC=example,DC=net",
        "CN=Lučić,O=网关 😀,L=Zürich,ST=ZH,STREET=a=b,C=CH",
        r"CN=\#1,O=\ a\ ,OU=\ ",
        r"CN=\+\;\<\>\\\\,O=a\00b",
    ],
)
def test_a_subject_is_written_as_rfc_4514_says(text: str) -> None:
    """RFC 4514's own examples (§4) and special characters at any place read back as the same name."""
    name = asn1_x509.Name.load(x509.Name.from_rfc4514_string(text).public_bytes())
    assert subject_text(name) == text.replace(r"\0d", "\r")
    assert x509.Name.from_rfc4514_string(subject_text(name)).public_bytes() == name.dump()


def test_a_type_without_a_short_name_is_an_oid_with_its_encoded_value() -> None:
    """What RFC 4514 §3 has no name for is written in dotted-decimal form, its value in hexadecimal (§2.4)."""
    name = asn1_x509.Name.load(x509.Name.from_rfc4514_string("CN=a,2.5.4.5=GW-17").public_bytes())
    assert subject_text(name) == "CN=a,2.5.4.5=#130547572d3137"


def test_a_certificates_subject_is_that_of_another_library() -> None:
    """A real certificate's subject and issuer are written as ``cryptography`` writes them."""
    made = self_signed()
    certificate = read_certificate(pem(made))
    assert subject_text(certificate.subject) == made.subject.rfc4514_string()
    assert subject_text(certificate.issuer) == made.issuer.rfc4514_string()
