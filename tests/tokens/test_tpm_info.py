"""``hsm-enroll tpm info``, on a TPM and without one."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.devices import Machine
from tests.support.screen import Screen
from tests.support.tpm2 import Tpm2
from tests.support.tpm_device import TpmDevice

_DIGEST = 64  # hexadecimal digits of a SHA-256, which stay together on a line so that they can be copied


@pytest.fixture
def device(shared_tpm: Tpm2, tmp_path: Path) -> TpmDevice:
    """Provide a device with the TPM."""
    return TpmDevice(tmp_path, {}, tpm=shared_tpm)


def test_the_document_has_all_that_a_list_of_chips_needs(device: TpmDevice, shared_tpm: Tpm2) -> None:
    """The TPM's manufacturer and firmware, and its endorsement keys with their certificates, P-384 first."""
    found = device.json("tpm", "info")
    assert (found["manufacturer"], found["endorsementPassword"]) == ("IBM", False)
    assert found["lockout"]["limit"] == shared_tpm.wrong_pins_that_lock()
    keys = found["endorsementKeys"]
    assert [key["type"] for key in keys] == ["ec-p384", "rsa-2048"]
    assert {key["issuer"] for key in keys} == {"CN=swtpm-localca"}
    for key in keys:
        certificate = x509.load_pem_x509_certificate(key["certificate"].encode())
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert key["certificateSha256"] == certificate.fingerprint(SHA256()).hex()
        assert key["publicSha256"] == sha256(spki).hexdigest()


@pytest.mark.parametrize("columns", [80, 40])
def test_a_person_can_read_and_copy_it(device: TpmDevice, columns: int) -> None:
    """On a terminal no line is broken but between words, and no fingerprint at all."""
    known = {key["publicSha256"] for key in device.json("tpm", "info")["endorsementKeys"]}
    with Screen(device, "tpm", "info", columns=columns) as screen:
        assert screen.end() == 0
    lines = screen.text.splitlines()
    assert known <= {word for line in lines for word in line.split()}
    assert max(len(line.rstrip()) for line in lines) <= max(columns, _DIGEST)
    assert lines[0].startswith("TPM          IBM")


def test_verbose_says_what_each_command_took(device: TpmDevice) -> None:
    """With --verbose the time of each TPM command is shown."""
    assert "TPM2_NV_Read " in device.run("tpm", "info", "--verbose").stderr


def test_d20_nobody_is_kept_waiting_for_a_tpm_that_hangs(device: TpmDevice, shared_tpm: Tpm2) -> None:
    """D20: what is waited for is named, and Ctrl-C ends it."""
    with shared_tpm.stopped(), Screen(device, "tpm", "info") as screen:
        screen.expect("waiting for the TPM, up to 180 s")
        screen.type("\x03")
        assert screen.end() == 130
    assert "Traceback" not in screen.text


def test_without_a_tpm_it_says_what_is_missing(tmp_path: Path) -> None:
    """Without a TPM the error names the missing device, as doctor does."""
    error = Machine(tmp_path, {"TPM2_PKCS11_TCTI": "device:/dev/tpm-of-nobody"}).error("tpm", "info")
    assert (error["code"], error["exitStatus"]) == ("module-unusable", 10)
    assert error["message"] == "there is no TPM: /dev/tpm-of-nobody does not exist"


def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path) -> None:
    """Without tpm2-pytss the error is the same as for every other extra."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tpm2_pytss'] = None\n")
    error = Machine(tmp_path, {"PYTHONPATH": str(tmp_path)}).error("tpm", "info")
    assert (error["code"], error["exitStatus"]) == ("usage", 2)
    assert "tpm2_pytss" in error["message"]
    assert "pip install" in error["hint"]
