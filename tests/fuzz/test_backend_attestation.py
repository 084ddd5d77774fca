"""S20 by the thousand: whatever is changed in what a TPM says, it is refused, with a code; nothing else is raised.

``FUZZ_MUTANTS`` sets how many mutants each of the tests at random makes; by default there are a few hundred, and all
of them together, with those that are made one after the other, are more than five thousand.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from enrollment_backend.attestation.certificates import Certificate, read_pem
from enrollment_backend.attestation.credential import make_credential
from enrollment_backend.attestation.endorsement import read_endorsement
from enrollment_backend.attestation.errors import AttestationRefusedError
from enrollment_backend.attestation.evidence import Evidence, Statement, read_attestation_key, verify
from enrollment_backend.attestation.structures import read_attest, read_public, read_signature
from tests.support.csr_factory import der_of, ec_key, pem, request, rsa_key, spki_of
from tests.support.ek_authority import pem as certificates_in_pem
from tests.support.software_tpm import (
    AK_ATTRIBUTES,
    Certified,
    EkType,
    SoftwareTpm,
    public_area,
    signature,
    sized,
)

FUZZ = settings(max_examples=int(os.environ.get("FUZZ_MUTANTS", "200")), deadline=None)
NOW = datetime.now(UTC)
SECRET, NONCE = bytes(range(32)), bytes(32)
CSR = der_of(request())
TPM_TYPES: list[EkType] = ["rsa-2048", "ec-p384"]

# How structures are put together: a number of octets, or None for a TPM2B.
Layout = tuple[int | None, ...]
EC_PUBLIC: Layout = (2, 2, 4, None, 2, 2, 2, 2, None, None)
AK_PUBLIC: Layout = (2, 2, 4, None, 2, 2, 2, 2, 2, None, None)
EK_PUBLICS: dict[EkType, Layout] = {
    "rsa-2048": (2, 2, 4, None, 2, 2, 2, 2, 2, 4, None),
    "ec-p384": (2, 2, 4, None, 2, 2, 2, 2, 2, 2, None, None),
}
ATTEST: Layout = (4, 2, None, None, 8, 4, 4, 1, 8, None, None)
EC_SIGNATURE: Layout = (2, 2, None, None)


@cache
def tpm(ek: EkType = "ec-p384") -> SoftwareTpm:
    """Provide one TPM of each type for the whole run."""
    return SoftwareTpm(ek)


@cache
def honest() -> Certified:
    """Provide evidence in whose signature no number begins with zeros, which may be left out."""
    while True:
        said = tpm().certify(CSR, NONCE, ec_key())
        _, _, r, s = split(said.signature, EC_SIGNATURE)
        if r[0] and s[0]:
            return said


def is_believed(said: Certified, secret: bytes = SECRET) -> bool:
    """Whether evidence is accepted; that it is refused has one of the errors that there are for that."""
    statement = Statement(NONCE, hashlib.sha256(SECRET).digest(), tpm().ak_public())
    try:
        verify(Evidence(secret, *said), statement, CSR, spki_of(ec_key()))
    except AttestationRefusedError as error:
        assert error.detail.endswith("."), error.code  # noqa: PT017 - it is not the error that is expected
        return False
    return True


# --- how mutants are made ---------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """One structure of the evidence, with its fields."""

    member: str
    layout: Layout
    outer: bool  # a TPM2B around it all


PARTS = [
    Part("key_public", EC_PUBLIC, outer=True),
    Part("certify_info", ATTEST, outer=False),
    Part("signature", EC_SIGNATURE, outer=False),
]


def split(octets: bytes, layout: Layout) -> list[bytes]:
    """Return the contents of the fields."""
    fields, at = [], 0
    for width in layout:
        size = int.from_bytes(octets[at : at + 2]) if width is None else width
        at += 2 if width is None else 0
        fields.append(octets[at : at + size])
        at += size
    assert at == len(octets)
    return fields


def join(fields: list[bytes], layout: Layout) -> bytes:
    """Put fields together again, with sizes that fit."""
    return b"".join(sized(field) if width is None else field for field, width in zip(fields, layout, strict=True))


def bits_flipped(octets: bytes) -> Iterator[bytes]:
    """Each bit of all octets in turn."""
    for at in range(len(octets)):
        for bit in range(8):
            yield octets[:at] + bytes([octets[at] ^ 1 << bit]) + octets[at + 1 :]


def fields_changed(octets: bytes, layout: Layout) -> Iterator[bytes]:
    """Each field in turn emptied, cut at either end, extended at either end, doubled, or all zeros or ones."""
    fields = split(octets, layout)
    for number, field in enumerate(fields):
        ends = [field[:size] for size in range(len(field))] + [field[size:] for size in range(1, len(field))]
        more = [field + b"\0", b"\0" + field, field + b"\xff", field * 2, bytes(len(field)), b"\xff" * len(field)]
        for changed in dict.fromkeys(ends + more):
            if changed != field:
                yield join([*fields[:number], changed, *fields[number + 1 :]], layout)


def fields_swapped(octets: bytes, layout: Layout) -> Iterator[bytes]:
    """Each field left out, and each two that differ put into each other's place."""
    fields = split(octets, layout)
    for number, field in enumerate(fields):
        yield join(fields[:number] + fields[number + 1 :], layout[:number] + layout[number + 1 :])
        for other in range(number):
            if fields[other] != field:
                swapped = list(fields)
                swapped[number], swapped[other] = fields[other], field
                yield join(swapped, layout)


def mutants(octets: bytes, layout: Layout, *, outer: bool) -> Iterator[bytes]:
    """All of these."""
    inner = octets[2:] if outer else octets
    yield from bits_flipped(octets)
    for changed in (*fields_changed(inner, layout), *fields_swapped(inner, layout)):
        yield sized(changed) if outer else changed


def spliced(octets: bytes, data: st.DataObject) -> bytes:
    """Replace a few octets at a few places by any others."""
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(octets)))
        end = data.draw(st.integers(begin, min(len(octets), begin + 8)))
        octets = octets[:begin] + data.draw(st.binary(max_size=8)) + octets[end:]
    return octets


# --- the evidence -----------------------------------------------------------------------------------------------------


def test_the_evidence_that_is_changed_is_good() -> None:
    """What all the mutants are made of is believed."""
    assert is_believed(honest())


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.member)
def test_s20_every_change_of_the_evidence_is_refused(part: Part) -> None:
    """Each bit flipped; each field cut, extended, emptied, left out, and put into another's place."""
    octets = getattr(honest(), part.member)
    tried = 0
    for changed in mutants(octets, part.layout, outer=part.outer):
        assert changed == octets or not is_believed(honest()._replace(**{part.member: changed})), changed.hex()
        tried += 1
    assert tried > 500


def test_s20_every_change_of_the_secret_is_refused() -> None:
    """Each bit flipped, and each other length."""
    for changed in (*bits_flipped(SECRET), *(SECRET[:size] for size in range(32)), SECRET + b"\0"):
        assert not is_believed(honest(), changed)


def test_there_are_more_than_five_thousand_mutants() -> None:
    """Without those at random, and those of certificates."""
    made = [mutants(getattr(honest(), part.member), part.layout, outer=part.outer) for part in PARTS]
    made.append(mutants(tpm().ek_public, EK_PUBLICS["ec-p384"], outer=True))
    made.append(mutants(tpm().ak_public(), AK_PUBLIC, outer=True))
    assert sum(1 for each in made for _ in each) > 5000


@FUZZ
@given(data=st.data())
def test_s20_evidence_with_parts_replaced_is_refused(data: st.DataObject) -> None:
    """Pieces of any length taken out at any places, and any other octets put there."""
    part = data.draw(st.sampled_from(PARTS))
    octets = getattr(honest(), part.member)
    changed = spliced(octets, data)
    if part.outer and data.draw(st.booleans()):
        changed = sized(changed[2:])
    if changed != octets:
        assert not is_believed(honest()._replace(**{part.member: changed}))


@FUZZ
@given(data=st.data())
def test_s20_any_octets_are_read_or_refused(data: st.DataObject) -> None:
    """The readers raise nothing but their errors, also where a structure begins well."""
    good = data.draw(
        st.sampled_from(
            [b"", *honest(), tpm("rsa-2048").ek_public, tpm().ek_public, tpm().ak_public(), signature(rsa_key(), b"x")]
        )
    )
    begin = data.draw(st.integers(0, len(good)))
    octets = good[:begin] + data.draw(st.binary(max_size=300))
    for read in (read_public, read_attest, read_signature):
        try:
            assert read(octets)
        except AttestationRefusedError as error:
            assert error.detail.endswith(".")  # noqa: PT017 - it is not the error that is expected


# --- the request for a session ----------------------------------------------------------------------------------------


@cache
def authorities(ek: EkType) -> tuple[Certificate, ...]:
    """Provide the vendor's certificates."""
    return read_pem(certificates_in_pem(tpm(ek).authority.root, tpm(ek).authority.intermediate))


def endorsed(ek: EkType, ek_public: bytes, certificate: str | None, ak_public: bytes) -> bytes | None:
    """Return the SubjectPublicKeyInfo to which a session's secret is encrypted; None if the request is refused."""
    try:
        endorsement = read_endorsement(ek_public, certificate)
        endorsement.check_chain(authorities(ek), NOW)
        name = read_attestation_key(ak_public).name
        make_credential(endorsement.public, name, SECRET)
    except AttestationRefusedError as error:
        assert error.detail.endswith("."), error.code  # noqa: PT017 - it is not the error that is expected
        return None
    return endorsement.public.spki


@pytest.mark.parametrize("ek", TPM_TYPES)
def test_s20_every_change_of_an_endorsement_key_is_refused_or_encrypts_to_the_same_key(ek: EkType) -> None:
    """No change gets a secret encrypted to another key than the certified one."""
    certificate = x509.load_pem_x509_certificate(tpm(ek).request()["ekCertificate"].encode())
    text = certificate.public_bytes(Encoding.PEM).decode()
    own = spki_of(tpm(ek).ek_key)
    assert endorsed(ek, tpm(ek).ek_public, text, tpm(ek).ak_public()) == own
    every = 7 if ek == "rsa-2048" else 1  # the modulus is long, and its octets all alike
    for changed in list(mutants(tpm(ek).ek_public, EK_PUBLICS[ek], outer=True))[::every]:
        assert endorsed(ek, changed, text, tpm(ek).ak_public()) in {None, own}


def test_s20_every_change_of_an_attestation_key_is_refused_or_has_another_name() -> None:
    """A change that is accepted has another Name, for which the TPM decrypts no secret."""
    own = tpm().ak_public()
    for changed in mutants(own, AK_PUBLIC, outer=True):
        try:
            accepted = read_attestation_key(changed)
        except AttestationRefusedError as error:
            assert error.detail.endswith(".")  # noqa: PT017 - it is not the error that is expected
        else:
            assert changed == own or accepted.name != read_attestation_key(own).name


@pytest.mark.parametrize("ek", TPM_TYPES)
def test_s20_a_certificate_with_an_octet_changed_is_refused(ek: EkType) -> None:
    """One bit of each octet flipped, the next bit each time."""
    encoding = tpm(ek).ek_certificate.public_bytes(Encoding.DER)
    for at, octet in enumerate(encoding):
        changed = encoding[:at] + bytes([octet ^ 1 << at % 8]) + encoding[at + 1 :]
        assert endorsed(ek, tpm(ek).ek_public, pem(changed, "CERTIFICATE"), tpm(ek).ak_public()) is None, at


@FUZZ
@given(data=st.data())
def test_s20_a_request_with_parts_replaced_is_refused_or_encrypts_to_the_same_key(data: st.DataObject) -> None:
    """Pieces of the keys or of the certificate replaced by any other octets."""
    ek = data.draw(st.sampled_from(TPM_TYPES))
    parts = [tpm(ek).ek_public, tpm(ek).ek_certificate.public_bytes(Encoding.DER), tpm(ek).ak_public()]
    number = data.draw(st.integers(0, 2))
    parts[number] = spliced(parts[number], data)
    if number != 1 and data.draw(st.booleans()):
        parts[number] = sized(parts[number][2:])
    assert endorsed(ek, parts[0], pem(parts[1], "CERTIFICATE"), parts[2]) in {None, spki_of(tpm(ek).ek_key)}


@FUZZ
@given(text=st.text(max_size=200), inside=st.text(alphabet="AIMz+/=\n -", max_size=200), is_block=st.booleans())
def test_s20_any_text_in_place_of_a_certificate_is_refused(text: str, inside: str, is_block: bool) -> None:
    """Text, and PEM of any content."""
    block = f"-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n"
    assert endorsed("ec-p384", tpm().ek_public, block if is_block else text, tpm().ak_public()) is None


@pytest.mark.parametrize("key", [rsa_key(), ec_key()], ids=["rsa", "ec"])
def test_s20_a_forger_with_any_attestation_key_is_found_out(key: object) -> None:
    """An attestation key of the forger's own, restricted by its own word, gets a secret that only the TPM decrypts."""
    ak_public = sized(public_area(key, AK_ATTRIBUTES))  # type: ignore[arg-type]
    challenge = make_credential(read_public(tpm().ek_public), read_attestation_key(ak_public).name, SECRET)
    with pytest.raises(ValueError, match="INTEGRITY"):
        tpm().activate(*challenge)
