"""Certification requests: built with one library, judged by another."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from asn1crypto import csr as asn1_csr
from asn1crypto import pem as asn1_pem
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from hsm_enroll.errors import HsmEnrollError, TokenRefusedError, UsageError
from hsm_enroll.key import KeyType
from hsm_enroll.x509 import csr
from tests.support.software_signer import SoftwareSigner, public_key_info, software_key

# X.690 §8.14, X.680 §8.4: universal tags.
_UTF8_STRING = 0x0C
_PRINTABLE_STRING = 0x13

_P256 = public_key_info(software_key(KeyType.EC_P256))
_TOKEN_PULLED_OUT = HsmEnrollError("the token is gone")


def _request(common_name: str = "gateway-7", additions: str | None = None) -> x509.CertificateSigningRequest:
    return x509.load_pem_x509_csr(csr.build(SoftwareSigner(), csr.subject(common_name, additions)).encode())


@pytest.mark.parametrize("key_type", KeyType)
def test_a_request_is_what_another_library_calls_valid(key_type: KeyType) -> None:
    """For every key type, ``cryptography`` finds the signature valid, the key the signer's, the subject CN=<thing>."""
    signer = SoftwareSigner(key_type)
    request = x509.load_pem_x509_csr(csr.build(signer, csr.subject("gateway-7")).encode())

    assert request.is_signature_valid
    assert request.public_key() == software_key(key_type).public_key()
    assert request.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway-7")])


@pytest.mark.parametrize(
    ("key_type", "algorithm"),
    [
        (KeyType.EC_P256, SignatureAlgorithmOID.ECDSA_WITH_SHA256),
        (KeyType.EC_P384, SignatureAlgorithmOID.ECDSA_WITH_SHA384),
        (KeyType.RSA_2048, SignatureAlgorithmOID.RSA_WITH_SHA256),
        (KeyType.RSA_3072, SignatureAlgorithmOID.RSA_WITH_SHA256),
        (KeyType.RSA_4096, SignatureAlgorithmOID.RSA_WITH_SHA256),
    ],
)
def test_the_algorithm_is_one_that_aws_iot_takes(key_type: KeyType, algorithm: x509.ObjectIdentifier) -> None:
    """P-384 signs with SHA-384, every other key with SHA-256; RSA as PKCS #1 v1.5 and not as PSS."""
    request = x509.load_pem_x509_csr(csr.build(SoftwareSigner(key_type), csr.subject("a")).encode())
    assert isinstance(request.signature_hash_algorithm, hashes.HashAlgorithm)

    assert request.signature_algorithm_oid == algorithm
    assert request.signature_hash_algorithm.name == key_type.digest


def test_what_was_signed_is_what_is_sent() -> None:
    """The signer is asked once, for a signature over exactly the information that the request holds."""
    signer = SoftwareSigner()
    request = x509.load_pem_x509_csr(csr.build(signer, csr.subject("a")).encode())

    assert signer.signed == [request.tbs_certrequest_bytes]


def test_a_request_is_one_pem_block() -> None:
    """The text is one block with the label of RFC 7468 §7, in lines of 64, and nothing around it."""
    text = csr.build(SoftwareSigner(KeyType.RSA_2048), csr.subject("a"))
    assert re.fullmatch(
        r"-----BEGIN CERTIFICATE REQUEST-----\n"
        r"([A-Za-z0-9+/]{64}\n)+[A-Za-z0-9+/=]{1,64}\n"
        r"-----END CERTIFICATE REQUEST-----\n",
        text,
    )


@pytest.mark.parametrize("key_type", KeyType)
def test_a_request_is_in_der(key_type: KeyType) -> None:
    """Decoded and encoded afresh, by either library, a request is the same bytes."""
    text = csr.build(SoftwareSigner(key_type), csr.subject("Tür", "OU=x+O=y,C=CH"))
    _, _, der = asn1_pem.unarmor(text.encode())

    assert x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.DER) == der
    afresh = asn1_csr.CertificationRequest.load(der, strict=True)
    assert afresh.native
    assert afresh.dump(force=True) == der


def test_a_request_is_of_version_0_with_no_attributes() -> None:
    """``version`` is 0 and ``attributes`` is there and empty, as RFC 2986 §4.1 has it."""
    request = _request()
    information = asn1_csr.CertificationRequestInfo.load(request.tbs_certrequest_bytes, strict=True)

    assert information["version"].contents == b"\x00"
    assert information["attributes"].dump() == b"\xa0\x00"
    assert list(request.attributes) == []
    assert list(request.extensions) == []


@pytest.mark.parametrize("common_name", ["gateway-7", "a", "x" * 64, "Tür", "网关", "😀", 'a,b+c=d\\e"f<g>h;#i ', " "])
def test_the_common_name_is_written_whole_as_utf_8(common_name: str) -> None:
    """Umlauts, other scripts, emoji and RFC 4514's special characters arrive unchanged, in a UTF8String."""
    (attribute,) = _request(common_name).subject
    written = common_name.encode()

    assert (attribute.oid, attribute.value) == (NameOID.COMMON_NAME, common_name)
    assert csr.subject(common_name).dump().endswith(bytes([_UTF8_STRING, len(written)]) + written)


def test_the_limit_is_of_characters_not_of_bytes() -> None:
    """64 characters are allowed (RFC 5280, ub-common-name), however many bytes they take."""
    name = csr.subject("网" * 64)
    assert name.native == {"common_name": "网" * 64}
    assert name.dump() in asn1_pem.unarmor(csr.build(SoftwareSigner(), name).encode())[2]


@pytest.mark.parametrize("common_name", ["", "x" * 65, "网" * 65, "x" * 128])
def test_a_common_name_beyond_the_limits_is_wrong_usage(common_name: str) -> None:
    """An empty CN and one of 65 characters are refused with their length, before the token is asked for anything."""
    with pytest.raises(UsageError, match=f"has {len(common_name)}$"):
        csr.subject(common_name)


def test_a_common_name_that_is_no_text_is_wrong_usage() -> None:
    """Half a character, which an argument in another encoding becomes, is refused."""
    with pytest.raises(UsageError, match="must be Unicode text"):
        csr.subject("gateway\udcff")


def _cryptography_name(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


@pytest.mark.parametrize(
    ("additions", "parts"),
    [
        (None, []),
        ("", []),
        ("C=CH", [(NameOID.COUNTRY_NAME, "CH")]),
        (
            "OU=Line 3,O=Example AG,L=Zürich,ST=ZH,C=CH",
            [
                (NameOID.COUNTRY_NAME, "CH"),
                (NameOID.STATE_OR_PROVINCE_NAME, "ZH"),
                (NameOID.LOCALITY_NAME, "Zürich"),
                (NameOID.ORGANIZATION_NAME, "Example AG"),
                (NameOID.ORGANIZATIONAL_UNIT_NAME, "Line 3"),
            ],
        ),
        (r"O=Example\, Ltd.\+\\", [(NameOID.ORGANIZATION_NAME, "Example, Ltd.+\\")]),
        ("O=网关 😀", [(NameOID.ORGANIZATION_NAME, "网关 😀")]),
        ("O=CN", [(NameOID.ORGANIZATION_NAME, "CN")]),
    ],
)
def test_additions_stand_before_the_common_name(
    additions: str | None, parts: list[tuple[x509.ObjectIdentifier, str]]
) -> None:
    """An RFC 4514 string names the last part first, so C is encoded first and CN=<thing> last."""
    expected = _cryptography_name(*parts, (NameOID.COMMON_NAME, "gateway-7"))

    assert csr.subject("gateway-7", additions).dump() == expected.public_bytes()
    assert list(_request("gateway-7", additions).subject) == list(expected)


def test_a_country_is_a_printable_string_and_the_rest_is_utf_8() -> None:
    """C is a PrintableString (X.520) and what people write is UTF8String (RFC 5280 §4.1.2.4)."""
    name = csr.subject("gateway-7", "O=Example,C=CH").dump()

    assert bytes([_PRINTABLE_STRING, 2]) + b"CH" in name
    assert bytes([_UTF8_STRING, 7]) + b"Example" in name


@pytest.mark.parametrize(
    "additions", ["CN=b", "CN=b,O=Example", "O=Example+CN=b", "O=a+CN=longer", "2.5.4.3=b", "O=a,CN=gateway-7"]
)
def test_additions_hold_no_common_name(additions: str) -> None:
    """The CN is the Thing's name; another one, also in a multi-valued part or as an OID, is refused."""
    with pytest.raises(UsageError, match="must not contain a CN"):
        csr.subject("gateway-7", additions)


@pytest.mark.parametrize(
    "text",
    ["O", "=", "O=a,,C=CH", "O=a;C=CH", "Z=a", "O=a\\", "O=\\ff", "O=#ff", "C=CHE", "9.9=a", "O=\udcff"],
)
def test_additions_that_are_no_name_are_wrong_usage(text: str) -> None:
    """What RFC 4514 or the attribute's own type does not allow is refused, with an example of what is."""
    for read in (csr.parse_subject, lambda text: csr.subject("gateway-7", text)):
        with pytest.raises(UsageError, match="is not an RFC 4514 name") as caught:
            read(text)
        assert not caught.value.message.rstrip().endswith(":")
        assert "OU=Line 3,O=Example,C=CH" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("O=a,2.5.4.5=GW_17", "Serial Number 'GW_17' is not valid: its type PrintableString"),
        ("2.5.4.46=a*b", "DN Qualifier 'a*b' is not valid: its type PrintableString"),
        ("C=é", "Country 'é' is not valid: its type PrintableString"),
        ("C=a@+O=b", "Country 'a@' is not valid: its type PrintableString"),
        ("DC=é", "Domain Component 'é' is not valid: its type IA5String"),
        ("1.2.840.113549.1.9.1=ü@example.com", "Email Address 'ü@example.com' is not valid: its type IA5String"),
    ],
)
def test_a_character_that_its_type_does_not_have_is_wrong_usage(text: str, said: str) -> None:
    """What the ASN.1 type of an attribute cannot hold, and the API would refuse, is refused with the value."""
    for read in (csr.parse_subject, lambda text: csr.subject("gateway-7", text)):
        with pytest.raises(UsageError, match=re.escape(said)) as caught:
            read(text)
        assert caught.value.exit_status == 2


@pytest.mark.parametrize("text", ["2.5.4.5=GW-17 (a/b)", "DC=a_b", "1.2.840.113549.1.9.1=a_b@example.com", "O=GW_17 é"])
def test_a_character_that_its_type_has_is_taken(text: str) -> None:
    """An underscore is refused where the type is PrintableString, and nowhere else."""
    assert csr.parse_subject(text).dump() == x509.Name.from_rfc4514_string(text).public_bytes()


def test_a_whole_subject_is_read_as_it_is_written() -> None:
    """For another CA the subject is taken whole, the last part first."""
    expected = _cryptography_name((NameOID.COUNTRY_NAME, "CH"), (NameOID.COMMON_NAME, "any, thing"))
    assert csr.parse_subject(r"CN=any\, thing,C=CH").dump() == expected.public_bytes()


def test_a_request_is_for_one_key_and_one_subject() -> None:
    """``is_for`` tells the key and the subject that a request was built with from every other."""
    signer, other = SoftwareSigner(KeyType.EC_P256), SoftwareSigner(KeyType.EC_P384)
    request = csr.build(signer, csr.subject("gateway-7", "O=Example"))

    assert csr.is_for(request, signer.public_key_info, csr.subject("gateway-7", "O=Example"))
    assert not csr.is_for(request, other.public_key_info, csr.subject("gateway-7", "O=Example"))
    assert not csr.is_for(request, signer.public_key_info, csr.subject("gateway-7"))
    assert not csr.is_for(request, signer.public_key_info, csr.subject("gateway-8", "O=Example"))


@pytest.mark.parametrize(
    "damage", [lambda _: "", lambda _: "junk", lambda _: "ä", lambda text: text[:100] + text[180:]]
)
def test_what_is_no_request_is_for_nobody(damage: Callable[[str], str]) -> None:
    """D12: a damaged request in the journal counts as another request, not as a crash."""
    signer, name = SoftwareSigner(), csr.subject("gateway-7")
    assert not csr.is_for(damage(csr.build(signer, name)), signer.public_key_info, name)


class _FaultySigner(SoftwareSigner):
    """A signer whose answer is changed on its way."""

    def __init__(self, key_type: KeyType, change: Callable[[bytes], bytes]) -> None:
        super().__init__(key_type)
        self._change = change

    def sign(self, message: bytes) -> bytes:
        return self._change(super().sign(message))


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048])
@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda signature: signature[:-1],
        lambda signature: signature + b"\x00",
        lambda signature: bytes([*signature[:-1], signature[-1] ^ 1]),
        lambda signature: bytes([*signature[:20], signature[20] ^ 0x80, *signature[21:]]),
        lambda signature: b"\x00" * len(signature),
    ],
    ids=["empty", "short", "long", "last bit", "middle bit", "zeros"],
)
def test_a_signature_that_does_not_verify_goes_nowhere(key_type: KeyType, change: Callable[[bytes], bytes]) -> None:
    """D9: a signature cut, extended or with one bit flipped is TokenRefusedError, exit status 15."""
    with pytest.raises(TokenRefusedError, match="signature") as caught:
        csr.build(_FaultySigner(key_type, change), csr.subject("gateway-7"))
    assert caught.value.exit_status == 15


def test_a_raw_ecdsa_signature_is_refused() -> None:
    """D9: r and s side by side, as PKCS#11 gives them, are not what a request holds."""
    with pytest.raises(TokenRefusedError):
        csr.build(_FaultySigner(KeyType.EC_P256, lambda _: b"\x01" * 64), csr.subject("gateway-7"))


@pytest.mark.parametrize("key_type", [KeyType.EC_P384, KeyType.RSA_2048, KeyType.RSA_3072])
def test_another_keys_signature_is_refused(key_type: KeyType) -> None:
    """D9: a signer that signs with another key than the one it shows is refused."""
    signer = SoftwareSigner(KeyType.EC_P256)
    signer.public_key_info = public_key_info(software_key(key_type))
    with pytest.raises(TokenRefusedError):
        csr.build(signer, csr.subject("gateway-7"))


def test_a_signature_over_something_else_is_refused() -> None:
    """D9: a signer that signs another message is refused."""

    class Distracted(SoftwareSigner):
        def sign(self, message: bytes) -> bytes:
            return super().sign(message[::-1])

    with pytest.raises(TokenRefusedError):
        csr.build(Distracted(), csr.subject("gateway-7"))


@pytest.mark.parametrize(
    "junk",
    [b"", b"junk", b"\x30\x00", _P256[:-1], _P256 + b"\x00"],
    ids=["nothing", "text", "empty", "cut off", "trailing byte"],
)
def test_a_public_key_that_is_none_is_refused(junk: bytes) -> None:
    """D9: a token that shows something else as its public key is refused, whatever it signs."""
    signer = SoftwareSigner()
    signer.public_key_info = junk
    with pytest.raises(TokenRefusedError):
        csr.build(signer, csr.subject("gateway-7"))


def test_what_the_signer_raises_comes_through() -> None:
    """D7: the signer's own error, such as a token pulled out, is not dressed as another."""

    class PulledOut(SoftwareSigner):
        def sign(self, message: bytes) -> bytes:
            del message
            raise _TOKEN_PULLED_OUT

    with pytest.raises(HsmEnrollError) as caught:
        csr.build(PulledOut(), csr.subject("gateway-7"))
    assert caught.value is _TOKEN_PULLED_OUT
