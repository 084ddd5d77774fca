"""What doctor and status say about the proof that the key is in a TPM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hsm_enroll.doctor import Patient, Status, checks_token
from hsm_enroll.key import TokenName
from hsm_enroll.settings import Settings
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.tpm2 import attestation
from tests.support.devices import Machine
from tests.support.identities import TOKEN, identity

_IN_TPM = TokenName(Path("/usr/lib/libtpm2_pkcs11.so"), "gateway", "0" * 16, "IBM", "SW   TPM")
_MISSING = TOKEN._replace(module=Path("/usr/lib/missing.so"))  # SoftHSM's


@pytest.fixture(params=[True, False], ids=["with the extra", "without the extra"])
def has_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the extra's package is installed."""
    monkeypatch.setattr(attestation, "LIBRARY", "json" if request.param else "no_such_package")
    return bool(request.param)


@pytest.mark.parametrize(
    ("token", "attested", "with_library", "without"),
    [
        (_IN_TPM, True, Status.OK, Status.WARNING),
        (_IN_TPM, False, Status.OK, Status.SKIPPED),
        (TOKEN, True, Status.WARNING, Status.WARNING),
        (TOKEN, False, Status.SKIPPED, Status.SKIPPED),
    ],
)
def test_the_doctor_says_whether_the_key_is_attested_and_its_renewal_can_be(
    tmp_path: Path, has_library: bool, token: TokenName, attested: bool, with_library: Status, without: Status
) -> None:
    """A proof that the next renewal cannot repeat is a warning; what to install is said, but not to SoftHSM's user."""
    replace(identity(), token=token, attested=attested).save(tmp_path)
    finding = checks_token.key_attested(Patient(Settings(state=tmp_path), {}, Tokens()))
    assert finding.status is (with_library if has_library else without)
    assert bool(finding.hint) is (finding.status is Status.WARNING or (token is _IN_TPM and not has_library))
    assert ("no proof" in finding.message) is (token is _IN_TPM and not attested and has_library)


def test_the_doctor_has_nothing_to_say_of_a_device_without_a_key(tmp_path: Path) -> None:
    """Before the enrollment there is no proof to look at."""
    assert checks_token.key_attested(Patient(Settings(state=tmp_path), {}, Tokens())).status is Status.SKIPPED


@pytest.mark.parametrize(
    ("token", "attested", "shown"),
    [
        (_IN_TPM, True, "the API has proof that the key is in a TPM"),
        (_IN_TPM, False, "no: the API has no proof that the key is in a TPM; it may get one by a renewal"),
        (
            _MISSING,
            False,
            "no: token 'gateway' is not in a TPM that tpm2-pkcs11 uses, and only such a TPM can attest its keys",
        ),
    ],
    ids=["proven", "not proven", "in no TPM"],
)
def test_status_says_whether_the_key_is_attested(tmp_path: Path, token: TokenName, attested: bool, shown: str) -> None:
    """If it is not, then why, in one line; also while the token cannot be used."""
    machine = Machine(tmp_path, {})
    machine.home.mkdir()
    replace(identity(), token=token, attested=attested).save(machine.home)
    assert [line for line in machine.run("status").stdout.splitlines() if line.startswith("Attested ")] == [
        f"Attested     {shown}"
    ]
    assert machine.json("status", status=10)["attested"] is attested
