"""Properties of reading certificates: damage gives a refusal or a certificate, and nothing else."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.errors import ForeignCertificateError
from hsm_enroll.key import KeyType
from hsm_enroll.x509.certificate import read_certificate
from tests.support.self_signed import armoured, der, self_signed

_RUN = settings(database=None, deadline=None, max_examples=150)
_SOUND = [der(self_signed(key_type, with_extensions=True)) for key_type in (KeyType.EC_P256, KeyType.RSA_2048)]
_EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.integers(0, 3), st.binary(max_size=3)
    ),  # where, how many bytes go, what comes instead
    min_size=1,
    max_size=4,
)


def _refused_or_whole(text: str) -> bool:
    """Whether a text is refused; if not, all that this program reads from a certificate can be read."""
    try:
        certificate = read_certificate(text)
    except ForeignCertificateError:
        return True
    assert certificate.public_key.dump()
    assert isinstance(certificate.not_valid_before, datetime)
    assert isinstance(certificate.not_valid_after, datetime)
    assert isinstance(certificate.subject.human_friendly, str)
    assert isinstance(certificate.serial_number, int)
    return False


@_RUN
@given(sound=st.sampled_from(_SOUND), edits=_EDITS)
def test_damaged_der_is_refused_or_still_whole(sound: bytes, edits: list[tuple[float, int, bytes]]) -> None:
    """D18: bytes replaced, inserted and deleted anywhere never raise anything but ForeignCertificateError."""
    damaged = bytearray(sound)
    for where, gone, instead in edits:
        position = int(where * len(damaged))
        damaged[position : position + gone] = instead
    _refused_or_whole(armoured(bytes(damaged)))


@pytest.mark.parametrize("bit", range(8))
def test_every_single_bit_flip_is_refused_or_still_whole(bit: int) -> None:
    """D18: no bit of a certificate, turned round, raises anything but ForeignCertificateError."""
    outcomes = set()
    for position in range(len(_SOUND[0])):
        damaged = bytearray(_SOUND[0])
        damaged[position] ^= 1 << bit
        outcomes.add(_refused_or_whole(armoured(bytes(damaged))))
    assert outcomes == {True, False}


@_RUN
@given(
    st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 2),
            st.text(max_size=3) | st.sampled_from(["=", "\n", "-----", "-----BEGIN CERTIFICATE-----\n"]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_damaged_text_is_refused_or_still_whole(edits: list[tuple[float, int, str]]) -> None:
    """D18: a PEM file with characters replaced, inserted and deleted never raises another exception."""
    text = armoured(_SOUND[0])
    for where, gone, instead in edits:
        position = int(where * len(text))
        text = text[:position] + instead + text[position + gone :]
    _refused_or_whole(text)


@_RUN
@given(st.text() | st.binary().map(armoured))
def test_what_never_was_a_certificate_is_refused(text: str) -> None:
    """D18: any text, and any bytes in armour, are refused."""
    assert _refused_or_whole(text)
