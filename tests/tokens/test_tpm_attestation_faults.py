"""A TPM, a PIN or a store that does not do: an error of ours, which says what to do, and nothing is tried twice."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsm_enroll.errors import (
    HsmEnrollError,
    KeyAmbiguousError,
    KeyMissingError,
    ModuleUnusableError,
    PinFinalTryError,
    PinLockedError,
    PinWrongError,
    TokenNotFoundError,
    TokenRefusedError,
)
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token.login import Origin, Pin
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.tpm2 import attestation
from hsm_enroll.token.tpm2.attestation import attestor as attestor_module
from hsm_enroll.token.tpm2.attestation.attestor import Attestor
from tests.support import tpm2
from tests.support.processes import program, run
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tpm2 import Tpm2
from tests.support.tpm_device import TpmDevice
from tests.support.under_test import KeyName

_WRONG = Secret("wrong-1234")
# Puts one octet before an object's encrypted authorization value (CKA_TPM2_OBJAUTH_ENC), a text in hexadecimal.
_DAMAGE = """UPDATE tobjects SET attrs = replace(attrs, '"2399141889"
  : !!str "', '"2399141889"
  : !!str "30')"""


class Certifying:
    """Has a key attested that the TPM's token has."""

    def __init__(self, tpm: Tpm2, token: TokenName, key: KeyName) -> None:
        self.tpm = tpm
        self.token = token
        self.key = key

    def __call__(
        self, pin: Secret | None = None, *, token: str | None = None, label: str = "", key_id: bytes = b""
    ) -> None:
        """Do it, with the right PIN and the key's own name, unless others are given."""
        named = self.token if token is None else self.token._replace(label=token)
        with Attestor() as attestor:
            attestor.certify(
                named,
                key_label=label or self.key.label,
                key_id=key_id or self.key.id,
                pin=pin or self.tpm.pin,
                qualifying_data=bytes(32),
            )


@pytest.fixture(scope="module")
def made(shared_tpm: Tpm2, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certifying]:
    """Provide a copy of the TPM that these tests may do anything to, and a key in it."""
    with (
        tpm2.cloned_without_resource_manager(shared_tpm, tmp_path_factory.mktemp("faulty") / "tpm") as tpm,
        pytest.MonkeyPatch.context() as patch,
    ):
        _enter(tpm, patch)
        key = KeyName("device-attested", b"attested")
        with Tokens() as tokens:
            token = next(one for one in tokens.listed(tpm.module) if one.initialized)
            with tokens.session(token, lambda _: tpm.pin, lambda _: None, writable=True) as opened:
                opened.generate(KeyType.EC_P256, label=key.label, key_id=key.id)
        yield Certifying(tpm, token.name, key)


@pytest.fixture
def certify(made: Certifying, monkeypatch: pytest.MonkeyPatch) -> Certifying:
    """Provide it as the machine's TPM."""
    _enter(made.tpm, monkeypatch)
    return made


@pytest.fixture
def counting(certify: Certifying) -> Iterator[Tpm2]:
    """Provide the TPM, locking after three failed tries, none of which it has counted."""
    with certify.tpm.locking_after(3, seconds_to_forget_one=1000):
        yield certify.tpm


@pytest.fixture
def changed_store(certify: Certifying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Provide a function that carries out SQL on a copy of the store, which is the machine's then."""
    store = tmp_path / "store"
    shutil.copytree(certify.tpm.home / "store", store)
    monkeypatch.setenv("TPM2_PKCS11_STORE", str(store))

    def change(statement: str) -> None:
        with sqlite3.connect(store / "tpm2_pkcs11.sqlite3") as connection:
            connection.executescript(statement)
        connection.close()

    return change


def _enter(tpm: Tpm2, patch: pytest.MonkeyPatch) -> None:
    for name, value in tpm.environment.items():
        patch.setenv(name, value)
    patch.setenv("TPM2TOOLS_TCTI", tpm.environment["TPM2_PKCS11_TCTI"])


def _tool(name: str, *arguments: str) -> None:
    run([program(name, package="tpm2-tools"), *arguments])


def _text(error: pytest.ExceptionInfo[HsmEnrollError]) -> str:
    """Return all that any output could show of an error."""
    return f"{error.value.message} {error.value.hint} {error.getrepr(showlocals=True)}"


def test_a_wrong_pin_is_tried_once(certify: Certifying, counting: Tpm2) -> None:
    """D1: a wrong PIN costs one try of the TPM's, and its error says where it came from, not what it is."""
    with pytest.raises(PinWrongError, match="it was the PIN of a test") as error:
        certify(Pin(_WRONG.reveal(), Origin("the PIN of a test")))
    assert counting.wrong_pins() == 1
    assert "1 of the 3 failed tries" in error.value.hint
    assert _WRONG.reveal() not in _text(error)


def test_the_last_try_is_not_used(certify: Certifying, counting: Tpm2) -> None:
    """D1: where the next wrong PIN would lock the TPM no PIN is tried, unless it is certain to be the right one."""
    for _ in range(2):
        with pytest.raises(PinWrongError):
            certify(Pin(_WRONG.reveal(), Origin("the PIN of a test", lambda: None)))
    with pytest.raises(PinFinalTryError, match="2 of the 3 failed tries"):
        certify()
    assert counting.wrong_pins() == 2
    certify(Pin(counting.pin.reveal(), Origin("the saved PIN", lambda: None)))


def test_a_locked_tpm_says_so(certify: Certifying, counting: Tpm2, tmp_path: Path) -> None:
    """D2: a TPM that is locked is not asked to attest; the error says when it unlocks, and ``tpm info`` that it is."""
    for _ in range(3):
        with pytest.raises(PinWrongError):
            certify(Pin(_WRONG.reveal(), Origin("the PIN of a test", lambda: None)))
    with pytest.raises(PinLockedError, match="3 of the 3 failed tries") as error:
        certify()
    assert "Try again in 34 min" in error.value.hint
    assert counting.wrong_pins() == 3
    lockout = TpmDevice(tmp_path, {}, tpm=counting).json("tpm", "info")["lockout"]
    assert lockout == {"locked": True, "failedTries": 3, "limit": 3, "intervalSeconds": 1000}


def test_which_key_is_exact(certify: Certifying, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """D6, D8: a token or a key of another name is not there, also where only one half of the name is another."""
    monkeypatch.setenv("TSS2_FAPICONF", str(tmp_path / "none"))  # this machine's own may lead to its TPM
    with pytest.raises(TokenNotFoundError, match="'another'"):
        certify(token="another")
    with pytest.raises(KeyMissingError, match="'another'"):
        certify(label="another")
    with pytest.raises(KeyMissingError, match="616e6f74686572"):
        certify(key_id=b"another")


@pytest.mark.parametrize(
    ("statement", "kind", "message"),
    [
        ("UPDATE schema SET schema_version = 9", ModuleUnusableError, "schema 9, and hsm-enroll knows the schema 8"),
        ("DROP TABLE schema", ModuleUnusableError, "schema that cannot be read"),
        ("UPDATE sealobjects SET userpriv = NULL", ModuleUnusableError, "no PIN of the user"),
        ("UPDATE pobjects SET config = '{transient: true}'", ModuleUnusableError, "not a persistent one"),
        ("INSERT INTO tobjects (tokid, attrs) SELECT tokid, attrs FROM tobjects", KeyAmbiguousError, "has 2 of the"),
        (
            """UPDATE tobjects SET attrs = replace(attrs, '"2399141891"', '"2399141899"')""",
            ModuleUnusableError,
            "no data for the TPM",
        ),
        (
            _DAMAGE,
            ModuleUnusableError,
            "does not decrypt",
        ),
    ],
    ids=["newer", "older", "no PIN", "transient parent", "twice", "another layout", "damaged"],
)
def test_an_unknown_store_is_refused(
    certify: Certifying,
    changed_store: Callable[[str], None],
    statement: str,
    kind: type[HsmEnrollError],
    message: str,
) -> None:
    """A store of another layout than the ones that were tried is an error that says so, never a guess."""
    changed_store(statement)
    with pytest.raises(kind, match=message):
        certify()


def test_the_backend_of_new_tokens_does_not_matter(certify: Certifying, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where new tokens go to FAPI, the keys of a token that is in tpm2-pkcs11's own store are attested as before."""
    monkeypatch.setenv("TPM2_PKCS11_BACKEND", "fapi")
    certify()


@pytest.mark.usefixtures("certify")
def test_an_endorsement_password_prevents_attestation() -> None:
    """Where the endorsement hierarchy has a password, the error names it, and info still shows the TPM."""
    _tool("tpm2_changeauth", "-c", "endorsement", "secret")
    try:
        with Attestor() as attestor:
            with pytest.raises(TokenRefusedError, match="endorsement hierarchy has a password") as error:
                attestor.endorsement()
            assert "tpm2_changeauth" in error.value.hint
            info = attestor.info()
            assert info.endorsement_password
            assert [key.key_type for key in info.endorsement_keys] == ["ec-p384", "rsa-2048"]
    finally:
        _tool("tpm2_changeauth", "-c", "endorsement", "-p", "secret")


def test_an_owner_password_does_not_matter(certify: Certifying) -> None:
    """A password of the owner hierarchy is not needed to attest a key that is there."""
    _tool("tpm2_changeauth", "-c", "owner", "secret")
    try:
        certify()
        with Attestor() as attestor:
            attestor.endorsement()
    finally:
        _tool("tpm2_changeauth", "-c", "owner", "-p", "secret")


def test_another_tpm_is_noticed(certify: Certifying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the TPM was cleared, or is another one, the error says so, and no PIN is tried."""
    tpm2.manufacture(tmp_path)
    with tpm2.powered(tmp_path) as other:
        for name, value in other.connection.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(KeyMissingError, match="it was cleared, or this is another TPM"):
            certify()
        assert other.wrong_pins() == 0


def test_a_tpm_that_hangs_is_given_up(certify: Certifying, monkeypatch: pytest.MonkeyPatch) -> None:
    """D5: a TPM that does not respond ends in an error after the time limit, now and ever after."""
    monkeypatch.setattr(attestor_module, "TIME_LIMIT_SECONDS", 1.0)
    with certify.tpm.stopped(), Attestor() as attestor:
        for _ in range(2):
            with pytest.raises(ModuleUnusableError, match="the TPM does not respond: it was stopped after 1 s"):
                attestor.endorsement()


def test_a_tpm_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """D5, D7: where nothing answers, and where the device is missing, the error says so; the process can be used on."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("TPM2_PKCS11_TCTI", f"swtpm:host=127.0.0.1,port={port}")
    with Attestor() as attestor:
        for _ in range(2):
            with pytest.raises(ModuleUnusableError, match="the TPM cannot be reached"):
                attestor.endorsement()
    monkeypatch.setenv("TPM2_PKCS11_TCTI", "device:/dev/tpm-of-nobody")
    with Attestor() as attestor, pytest.raises(ModuleUnusableError, match="/dev/tpm-of-nobody does not exist"):
        attestor.info()


def test_only_a_tpms_token_can_be_attested(certify: Certifying, softhsm: SoftHsmUnderTest) -> None:
    """A token of SoftHSM cannot be attested, which is known at once; one of tpm2-pkcs11 can."""
    assert attestation.is_possible(certify.token) is None
    fault = attestation.is_possible(softhsm.name)
    assert fault is not None
    assert "'gateway' is not in a TPM" in fault.message
    assert "hsm-enroll token create" in fault.hint


def test_a_missing_extra_says_how_to_install_it(certify: Certifying, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra no process is started, and the error says how to install it."""
    monkeypatch.setattr(attestation, "LIBRARY", "tpm2_pytss_of_nobody")
    fault = attestation.is_possible(certify.token)
    assert fault is not None
    assert "tpm2-pytss" in fault.message
    assert "pip install" in fault.hint
    with pytest.raises(ModuleUnusableError, match="tpm2-pytss of the extra 'tpm' is not installed"):
        certify()
