"""Properties of certification requests: every name arrives, and every text is a name or wrong usage."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hsm_enroll.errors import TokenRefusedError, UsageError
from hsm_enroll.key import KeyType
from hsm_enroll.x509 import csr
from tests.support.software_signer import SoftwareSigner

_RUN = settings(database=None, deadline=None, max_examples=120)
# ``cryptography``, the judge here, counts the 64 characters of a CN in bytes.
_COMMON_NAMES = st.text(min_size=1, max_size=64).filter(lambda name: len(name.encode()) <= 64)
_ADDITIONS = st.lists(
    st.one_of(
        st.tuples(st.just(NameOID.COUNTRY_NAME), st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2)),
        st.tuples(
            st.sampled_from(
                [
                    NameOID.STATE_OR_PROVINCE_NAME,
                    NameOID.LOCALITY_NAME,
                    NameOID.ORGANIZATION_NAME,
                    NameOID.ORGANIZATIONAL_UNIT_NAME,
                ]
            ),
            st.text(min_size=1, max_size=64),
        ),
    ),
    max_size=5,
)


@_RUN
@given(common_name=_COMMON_NAMES, additions=_ADDITIONS)
def test_every_name_arrives(common_name: str, additions: list[tuple[x509.ObjectIdentifier, str]]) -> None:
    """Whatever CN and additions hold, ``cryptography`` reads from the request what it wrote as RFC 4514 itself."""
    parts = [x509.NameAttribute(oid, value) for oid, value in additions]
    name = csr.subject(common_name, x509.Name(parts).rfc4514_string())
    request = x509.load_pem_x509_csr(csr.build(SoftwareSigner(), name).encode())

    assert list(request.subject) == [*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    assert request.is_signature_valid


@_RUN
@given(st.text(st.characters()))
def test_any_common_name_is_written_or_wrong_usage(common_name: str) -> None:
    """No CN raises anything but UsageError, and only its length or half a character is a reason."""
    sound = 1 <= len(common_name) <= 64 and not any("\ud800" <= character <= "\udfff" for character in common_name)
    try:
        name = csr.subject(common_name)
    except UsageError:
        assert not sound
    else:
        assert sound
        assert name.native == {"common_name": common_name}


_PIECES = [
    "CN",
    "O",
    "C",
    "DC",
    "2.5.4.10",
    "9.9",
    "=",
    ",",
    "+",
    "\\",
    "#",
    "0c0141",
    "\\ff",
    '"',
    " ",
    "a",
    "é",
    "CH",
]


@_RUN
@given(st.text(st.characters()) | st.lists(st.sampled_from(_PIECES), max_size=12).map("".join))
def test_any_text_is_a_name_or_wrong_usage(text: str) -> None:
    """No text raises anything but UsageError; what is taken makes a request that another library can read."""
    try:
        name = csr.parse_subject(text)
    except UsageError:
        return
    request = x509.load_pem_x509_csr(csr.build(SoftwareSigner(), name).encode())
    assert request.subject.public_bytes() == name.dump()


@_RUN
@given(
    key_type=st.sampled_from([KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048]), signature=st.binary(max_size=300)
)
def test_no_made_up_signature_is_believed(key_type: KeyType, signature: bytes) -> None:
    """D9: whatever bytes a token calls a signature, a request with them is not made."""

    class Forger(SoftwareSigner):
        def sign(self, message: bytes) -> bytes:
            del message
            return signature

    with pytest.raises(TokenRefusedError):
        csr.build(Forger(key_type), csr.subject("gateway-7"))


@_RUN
@example(key_type=KeyType.EC_P256, position=26, value=6)  # the point's hybrid forms (X9.62)
@example(key_type=KeyType.EC_P256, position=26, value=7)
@given(
    key_type=st.sampled_from([KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048]),
    position=st.integers(0, 400),
    value=st.integers(0, 255),
)
def test_a_public_key_that_is_a_byte_off_is_refused(key_type: KeyType, position: int, value: int) -> None:
    """D9: a token that shows another public key than it signs with is refused, wherever the difference is."""
    signer = SoftwareSigner(key_type)
    shown = bytearray(signer.public_key_info)
    position %= len(shown)
    assume(shown[position] != value)
    shown[position] = value
    signer.public_key_info = bytes(shown)
    with pytest.raises(TokenRefusedError):
        csr.build(signer, csr.subject("gateway-7"))
