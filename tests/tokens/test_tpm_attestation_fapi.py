"""Attestation of keys that tpm2-pkcs11 keeps with FAPI: a recorded token that the real module made, see ``fapi/``."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from enrollment_backend.attestation import evidence
from enrollment_backend.attestation.credential import make_credential
from enrollment_backend.attestation.endorsement import read_endorsement
from enrollment_backend.attestation.evidence import Evidence, Statement, read_attestation_key
from hsm_enroll.errors import (
    KeyMissingError,
    ModuleUnusableError,
    PinWrongError,
    TokenAmbiguousError,
    TokenNotFoundError,
)
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token.tpm2.attestation import fapi
from hsm_enroll.token.tpm2.attestation.attestor import Attestor
from hsm_enroll.token.tpm2.attestation.stored_key import Wanted
from hsm_enroll.token.tpm2.attestation.values import Certified
from tests.support import tpm2
from tests.support.tpm2 import Tpm2

_RECORDED = Path(__file__).parent / "fapi"
_PROFILE = "P_ECCP256SHA256"
_TOKEN = TokenName(Path("libtpm2_pkcs11.so"), "gateway", "0000000000000000", "IBM", "SW   TPM")
_OFFICER, _USER, _OTHER = (f"tpm2-pkcs11-token-{which}" for which in ("so-00000001", "usr-00000001", "so-00000002"))
_STORAGE_KEY = "."


class Keystore:
    """The storage key of FAPI's keystore and what is below it.

    Args:
        folder: FAPI's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.below = folder / _PROFILE / "HS" / "SRK"

    def file(self, name: str) -> Path:
        """Return the file of an object."""
        return self.below / name / "object.json"

    def change(self, name: str, **members: Any) -> None:
        """Change members of an object."""
        document = json.loads(self.file(name).read_bytes())
        self.file(name).write_text(json.dumps(document | members))

    def replace(self, name: str, old: bytes, new: bytes) -> None:
        """Replace octets of an object's application data."""
        data = bytes.fromhex(json.loads(self.file(name).read_bytes())["appData"])
        assert old in data
        self.change(name, appData=data.replace(old, new).hex())


class Machine:
    """A machine with the recorded TPM, and what talks to it."""

    def __init__(self, tpm: Tpm2, attestor: Attestor, folder: Path) -> None:
        self.tpm = tpm
        self.attestor = attestor
        self.folder = folder

    def certify(
        self,
        pin: str = "right-1234",
        *,
        token_label: str = _TOKEN.label,
        label: str = "device-ec",
        key_id: str = "",
        data: bytes = bytes(32),
    ) -> Certified:
        """Have a key attested."""
        return self.attestor.certify(
            _TOKEN._replace(label=token_label),
            key_label=label,
            key_id=(key_id or label).encode(),
            pin=Secret(pin),
            qualifying_data=data,
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Provide the machine; nothing but FAPI's keystore is changed by a test."""
    home = tmp_path_factory.mktemp("fapi")
    shutil.copytree(_RECORDED / "state", home / "state")
    with tpm2.powered_without_resource_manager(home) as tpm, pytest.MonkeyPatch.context() as patch:
        configuration = {
            "profile_name": _PROFILE,
            "profile_dir": "/etc/tpm2-tss/fapi-profiles/",
            "user_dir": str(home / "keystore"),
            "system_dir": str(home / "system"),
            "tcti": tpm.connection["TPM2_PKCS11_TCTI"],
            "system_pcrs": [],
            "log_dir": str(home),
        }
        (home / "system").mkdir()
        (home / "fapi.json").write_text(json.dumps(configuration))
        patch.setenv("TSS2_FAPICONF", str(home / "fapi.json"))
        patch.setenv("TPM2TOOLS_TCTI", tpm.connection["TPM2_PKCS11_TCTI"])
        for name, value in tpm.environment.items():
            patch.setenv(name, value)
        with Attestor() as attestor:
            attestor.start()
            yield Machine(tpm, attestor, home)


@pytest.fixture
def keystore(machine: Machine) -> Keystore:
    """Provide FAPI's keystore, as it was recorded."""
    folder = machine.folder / "keystore"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(_RECORDED / "keystore", folder)
    return Keystore(folder)


@pytest.mark.usefixtures("keystore")
@pytest.mark.parametrize("label", ["device-ec", "device-rsa"])
def test_a_key_of_fapi_is_attested(machine: Machine, label: str) -> None:
    """The backend believes what the TPM says of a key that tpm2-pkcs11 made with FAPI, after a change of the PIN."""
    public_key = load_pem_public_key((_RECORDED / f"{label}.pem").read_bytes())
    info = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    nonce, secret, request = secrets.token_bytes(32), secrets.token_bytes(32), b"the DER of a certificate request"
    presented = machine.attestor.endorsement()
    ek = read_endorsement(presented.ek_public, presented.ek_certificate).public
    challenge = make_credential(ek, read_attestation_key(presented.ak_public).name, secret)
    answer = machine.attestor.activate(challenge.credential_blob, challenge.encrypted_secret)
    said = machine.certify(label=label, data=evidence.qualifying_data(nonce, request))
    statement = Statement(nonce, hashlib.sha256(secret).digest(), presented.ak_public)
    assert evidence.verify(Evidence(answer, *said), statement, request, info).firmware


@pytest.mark.usefixtures("keystore")
def test_a_wrong_pin_is_tried_once(machine: Machine) -> None:
    """D1: a wrong PIN costs one try of the TPM's, whichever store the token is in."""
    with pytest.raises(PinWrongError, match="'gateway' refused the PIN"):
        machine.certify("wrong-1234")
    assert machine.tpm.wrong_pins() == 1
    machine.tpm.forget_wrong_pins()


@pytest.mark.usefixtures("keystore")
def test_which_key_is_exact(machine: Machine) -> None:
    """D6, D8: a token or a key of another name is not there, and the error names both stores of tpm2-pkcs11."""
    with pytest.raises(
        TokenNotFoundError, match=r"no token store in .*; FAPI's keystore does not have the token 'any'"
    ):
        machine.certify(token_label="any")
    with pytest.raises(KeyMissingError, match="FAPI's keystore does not have the key 'any'"):
        machine.certify(label="any", key_id="device-ec")
    with pytest.raises(KeyMissingError, match=f"with the id {b'any'.hex()}"):
        machine.certify(key_id="any")


def test_a_keystore_that_is_not_set_up_has_no_token(machine: Machine, keystore: Keystore) -> None:
    """Where FAPI was never set up, the token is not found, as without FAPI."""
    shutil.rmtree(keystore.folder)
    with pytest.raises(TokenNotFoundError, match=r"no token store in .*; FAPI's keystore is not set up: "):
        machine.certify()


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        (_STORAGE_KEY, {"persistent_handle": 0, "serialization": ""}, "its storage key is not a persistent one"),
        (_STORAGE_KEY, {"serialization": "abcd"}, "the data of a token, or of the key above it (mu:"),
        (_USER, {"private": "ffff"}, "the data of the key, or of what is sealed"),
        (_USER, {"private": "0004abcdabcd"}, "the data of the key, or of what is sealed"),
        (_OFFICER, {"appData": "zz"}, "the data of a token, or of the key above it (fapi:"),
        (_OTHER, {"public": 7}, "the data of a token, or of the key above it (fapi:"),
    ],
    ids=["transient", "parent", "cut seal", "seal", "no hex", "no object"],
)
def test_a_damaged_keystore_is_an_error_of_ours(
    machine: Machine, keystore: Keystore, name: str, members: dict[str, Any], message: str
) -> None:
    """What neither FAPI nor the TPM takes is said to be the store's fault, and no PIN is tried."""
    keystore.change(name, **members)
    with pytest.raises(ModuleUnusableError, match=re.escape(message)):
        machine.certify()
    assert machine.tpm.wrong_pins() == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"2399141891"', b'"2399141899"', "has no data for the TPM"),
        (b'"2399141889"\n  : !!str "', b'"2399141889"\n  : !!str "30', "does not decrypt"),
        (b'"2399141890"\n  : !!str "', b'"2399141890"\n  : !!str "x', "cannot be read"),
    ],
    ids=["another layout", "authorization", "no hex"],
)
def test_unknown_objects_are_refused(
    machine: Machine, keystore: Keystore, old: bytes, new: bytes, message: str
) -> None:
    """Objects of another layout than the one that was tried are an error that says so, never a guess."""
    keystore.replace(_OFFICER, old, new)
    with pytest.raises(ModuleUnusableError, match=message):
        machine.certify()


def test_a_token_must_be_the_only_one_and_have_a_pin(machine: Machine, keystore: Keystore) -> None:
    """D8: two tokens of one label are ambiguous, and a token that has no PIN of the user is said to have none."""
    keystore.change(_OTHER, description="gateway")
    with pytest.raises(TokenAmbiguousError, match=rf"2 tokens labelled 'gateway': .*{_OFFICER}"):
        machine.certify()
    shutil.rmtree(keystore.file(_OTHER).parent)
    shutil.rmtree(keystore.file(_USER).parent)
    with pytest.raises(ModuleUnusableError, match="'gateway' in it has no PIN of the user"):
        machine.certify()


def test_strange_neighbours_do_not_matter(machine: Machine, keystore: Keystore) -> None:
    """A token whose label is Latin-1, an object of another program and an empty entry keep no key from being found."""
    file = keystore.file(_OTHER)
    file.write_bytes(file.read_bytes().replace(b'"without-pin"', b'"Zug\xe4nge"'))
    shutil.copytree(file.parent, keystore.below / "of-another-program")
    keystore.replace(_OFFICER, b"\0", b"\0\0")
    assert machine.certify()


@pytest.mark.usefixtures("keystore")
def test_fapi_leaves_nothing_open(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is looked into, with or without success, no connection to the TPM stays open."""
    configuration = json.loads((machine.folder / "fapi.json").read_text())
    # Unlike swtpm's own, this way to a TPM has a file open for as long as the connection is.
    (tmp_path / "fapi.json").write_text(json.dumps(configuration | {"tcti": f"pcap:{configuration['tcti']}"}))
    monkeypatch.setenv("TSS2_FAPICONF", str(tmp_path / "fapi.json"))
    monkeypatch.setenv("TCTI_PCAP_FILE", str(tmp_path / "bus.pcap"))
    before = _open_files()
    for label in ("device-ec", "any", "device-ec"):
        with suppress(KeyMissingError):
            fapi.find(Wanted("gateway", label, label.encode()))
        assert _open_files() == before
    assert (tmp_path / "bus.pcap").stat().st_size


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_tpm2_tss_without_fapi_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tpm2-pytss was built without FAPI, the token is not found, and the error says that FAPI was not read."""
    monkeypatch.setitem(sys.modules, "tpm2_pytss.FAPI", None)
    with pytest.raises(TokenNotFoundError, match="FAPI's keystore cannot be read: "):
        fapi.find(Wanted("gateway", "device-ec", b"device-ec"))
