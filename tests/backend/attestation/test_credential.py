"""Challenges that one TPM alone can open, checked against other implementations of both ends.

`SoftwareTpm.activate` derives its keys by itself. swtpm opens challenges in ``tests/tokens``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest
from tpm2_pytss.types import TPM2B_NAME, TPM2B_PUBLIC
from tpm2_pytss.utils import make_credential as make_credential_by_pytss
from tpm2_pytss.utils import tools_to_credential

from enrollment_backend.attestation.credential import make_credential
from enrollment_backend.attestation.errors import EkUnsuitableError
from enrollment_backend.attestation.structures import read_public
from tests.support.csr_factory import rsa_key
from tests.support.processes import program, run
from tests.support.software_tpm import EkType, SoftwareTpm, name_of, public_area, sized

SECRET = bytes(range(32))


@pytest.fixture(params=get_args(EkType), scope="module")
def tpm(request: pytest.FixtureRequest) -> SoftwareTpm:
    """Provide a TPM with each type of endorsement key."""
    return SoftwareTpm(request.param)


@pytest.fixture
def name(tpm: SoftwareTpm) -> bytes:
    """Provide the Name of its attestation key."""
    return name_of(tpm.ak_public()[2:])


def test_the_tpm_opens_the_challenge(tpm: SoftwareTpm, name: bytes) -> None:
    """The secret comes out as it was put in, whatever its length, and no two challenges are the same."""
    ek = read_public(tpm.ek_public)
    for secret in (SECRET, b"\0", os.urandom(20)):
        assert tpm.activate(*make_credential(ek, name, secret)) == secret
    assert make_credential(ek, name, SECRET) != make_credential(ek, name, SECRET)


def test_no_other_tpm_and_no_other_key_opens_the_challenge(tpm: SoftwareTpm, name: bytes) -> None:
    """It is refused for another attestation key's Name, by another endorsement key, and with any octet changed."""
    ek = read_public(tpm.ek_public)
    another = SoftwareTpm(tpm.ek)
    another.ak_key = tpm.ak_key
    with pytest.raises(ValueError, match=r"INTEGRITY|Decryption failed"):
        another.activate(*make_credential(ek, name, SECRET))
    with pytest.raises(ValueError, match="INTEGRITY"):
        tpm.activate(*make_credential(ek, name[:-1] + bytes([name[-1] ^ 1]), SECRET))
    blob, encrypted = make_credential(ek, name, SECRET)
    for at in range(2, len(blob)):
        with pytest.raises(ValueError, match=r"INTEGRITY|SIZE"):
            tpm.activate(blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :], encrypted)


def test_pytss_makes_the_same_challenges(tpm: SoftwareTpm, name: bytes) -> None:
    """What opens the backend's challenges opens those of tpm2-pytss too, and they have the same sizes."""
    public, _ = TPM2B_PUBLIC.unmarshal(tpm.ek_public)
    blob, encrypted = make_credential_by_pytss(public, SECRET, TPM2B_NAME(name))
    assert tpm.activate(blob.marshal(), encrypted.marshal()) == SECRET
    ours = make_credential(read_public(tpm.ek_public), name, SECRET)
    assert [len(part) for part in ours] == [len(blob.marshal()), len(encrypted.marshal())]


def test_tpm2_makecredential_makes_the_same_challenges(tpm: SoftwareTpm, name: bytes, tmp_path: Path) -> None:
    """The same, for tpm2-tools."""
    files = {"-u": tpm.ek_public, "-s": SECRET}
    for option, content in files.items():
        (tmp_path / option).write_bytes(content)
    arguments = [word for option in files for word in (option, str(tmp_path / option))]
    made = tmp_path / "made"
    tool = program("tpm2_makecredential", package="tpm2-tools")
    run([tool, "-T", "none", *arguments, "-n", name.hex(), "-o", str(made)])
    blob, encrypted = tools_to_credential(made.read_bytes())
    assert tpm.activate(blob.marshal(), encrypted.marshal()) == SECRET
    ours = make_credential(read_public(tpm.ek_public), name, SECRET)
    assert [len(part) for part in ours] == [len(blob.marshal()), len(encrypted.marshal())]


def test_a_key_that_protects_nothing_is_refused(name: bytes) -> None:
    """A key without a symmetric algorithm cannot have a challenge."""
    with pytest.raises(EkUnsuitableError):
        make_credential(read_public(sized(public_area(rsa_key(), 0))), name, SECRET)
