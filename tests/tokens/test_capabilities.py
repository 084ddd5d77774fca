"""What a token can do is asked for, and what it cannot do is refused before a key is made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pkcs11 import MechanismFlag

from hsm_enroll import doctor
from hsm_enroll.device import enrollment
from hsm_enroll.device.plan import Request
from hsm_enroll.device.ports import Ports
from hsm_enroll.errors import (
    HsmEnrollError,
    ModuleUnusableError,
    PinMissingError,
    TokenAmbiguousError,
    TokenRefusedError,
)
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.token import capabilities, discovery, keypair, selection, session
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tokens import Tokens
from tests.support import documents
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tokens import listed, token_of
from tests.support.tpm2 import Tpm2
from tests.support.under_test import LABEL, KeyName, OwnToken
from tests.support.world import World
from tests.tokens.conftest import KEY_TYPES
from tests.tokens.handshake import TLS_1_2, shake

_ECDSA_ALONE = "CKM_EC_KEY_PAIR_GEN,CKM_ECDSA"
_EC = (KeyType.EC_P256, KeyType.EC_P384)
_RSA = (KeyType.RSA_2048, KeyType.RSA_3072, KeyType.RSA_4096)


@pytest.mark.own_token
def test_a_token_tells_its_key_types(token: OwnToken, request: pytest.FixtureRequest) -> None:
    """What a token's mechanisms and their sizes come to is what the suite makes in it, here and through a child."""
    made = tuple(KEY_TYPES[request.node.callspec.params["token"]])
    assert capabilities.read(session.find(token.name)) == capabilities.Capabilities(made, made)
    report = next(report for report in listed(token.module) if report.name == token.name)
    assert (report.key_types, report.mqtt_key_types, report.mqtt_obstacle) == (made, made, None)


@pytest.mark.parametrize(
    ("mechanisms", "key_types", "mqtt_key_types"),
    [
        (_ECDSA_ALONE, _EC, _EC),
        ("CKM_EC_KEY_PAIR_GEN,CKM_ECDSA_SHA256", (), ()),
        ("CKM_ECDSA,CKM_RSA_PKCS", (), ()),
        ("CKM_RSA_PKCS_KEY_PAIR_GEN,CKM_RSA_PKCS", _RSA, _RSA),
        ("CKM_RSA_PKCS_KEY_PAIR_GEN,CKM_SHA256_RSA_PKCS", _RSA, ()),
        ("CKM_RSA_PKCS_KEY_PAIR_GEN,CKM_ECDSA", (), ()),
    ],
)
def test_a_key_type_needs_its_mechanisms(
    softhsm_with: Callable[[str], SoftHsmUnderTest],
    mechanisms: str,
    key_types: tuple[KeyType, ...],
    mqtt_key_types: tuple[KeyType, ...],
) -> None:
    """A key type needs the mechanism that makes it and one that signs; MQTT needs CKM_RSA_PKCS for RSA."""
    softhsm = softhsm_with(mechanisms)
    expected = capabilities.Capabilities(key_types, mqtt_key_types)
    assert capabilities.read(session.find(softhsm.name)) == expected
    report = token_of(softhsm.module)
    assert (report.key_types, report.mqtt_key_types) == expected


@pytest.mark.parametrize(
    ("traits", "key_types"),
    [
        ({"MECHANISMS_LACK": int(MechanismFlag.GENERATE_KEY_PAIR)}, ()),
        ({"MECHANISMS_LACK": int(MechanismFlag.SIGN)}, ()),
        ({"SMALLEST_KEY": 257}, (KeyType.EC_P384, *_RSA)),
        ({"LARGEST_KEY": 3071}, (*_EC, KeyType.RSA_2048)),
        ({"LARGEST_KEY": 0}, (*_EC, *_RSA)),
    ],
    ids=["makes no pairs", "does not sign", "smallest", "largest", "no limit"],
)
def test_what_a_mechanism_is_for_and_its_sizes_count(
    softhsm: SoftHsmUnderTest, traits: dict[str, int], key_types: tuple[KeyType, ...]
) -> None:
    """A mechanism that is listed counts for what CK_MECHANISM_INFO says: its purpose, and sizes, of which 0 is none."""
    name = softhsm.name._replace(module=softhsm.faulty_module(**traits))
    assert capabilities.read(session.find(name)).key_types == key_types


def test_a_size_outside_the_range_is_refused_by_a_tpm(tpm: Tpm2) -> None:
    """A TPM whose RSA keys end at 3072 bits refuses RSA-4096, and the hint names what it can, for MQTT or not."""
    report = next(report for report in listed(tpm.module) if report.name == tpm.name)
    for mqtt in (False, True):
        with pytest.raises(TokenRefusedError, match="does not support keys of type rsa-4096") as caught:
            selection.require(report, KeyType.RSA_4096, mqtt=mqtt)
        assert caught.value.exit_status == 15
        assert "supports ec-p256, ec-p384, rsa-2048, rsa-3072:" in caught.value.hint
        selection.require(report, KeyType.RSA_3072, mqtt=mqtt)


def test_a_token_without_any_of_them_says_so(softhsm_with: Callable[[str], SoftHsmUnderTest]) -> None:
    """A token that has no mechanism of use sends its owner to another token."""
    with pytest.raises(TokenRefusedError) as caught:
        selection.require(token_of(softhsm_with("CKM_AES_CBC").module), KeyType.EC_P256, mqtt=True)
    assert "another token" in caught.value.hint


def test_rsa_without_ckm_rsa_pkcs_is_for_requests_alone(softhsm_with: Callable[[str], SoftHsmUnderTest]) -> None:
    """A token that signs RSA by CKM_SHA256_RSA_PKCS alone is refused for MQTT, and does without it."""
    report = token_of(softhsm_with(f"CKM_RSA_PKCS_KEY_PAIR_GEN,CKM_SHA256_RSA_PKCS,{_ECDSA_ALONE}").module)
    selection.require(report, KeyType.RSA_2048, mqtt=False)
    with pytest.raises(TokenRefusedError, match="CKM_RSA_PKCS") as caught:
        selection.require(report, KeyType.RSA_2048, mqtt=True)
    assert "supports ec-p256, ec-p384:" in caught.value.hint


@pytest.mark.parametrize(
    ("key_type", "status"), [(KeyType.EC_P256, doctor.Status.OK), (KeyType.RSA_2048, doctor.Status.FAILED)]
)
def test_the_doctor_names_a_key_type_that_mqtt_cannot_use(
    softhsm_with: Callable[[str], SoftHsmUnderTest], tmp_path: Path, key_type: KeyType, status: doctor.Status
) -> None:
    """The doctor fails a token that signs with the wanted type of key, but not by the mechanism that MQTT needs."""
    module = softhsm_with(f"CKM_RSA_PKCS_KEY_PAIR_GEN,CKM_SHA256_RSA_PKCS,{_ECDSA_ALONE}").module
    with Tokens() as tokens:
        patient = doctor.Patient(Settings(state=tmp_path, module=module, key_type=key_type), os.environ, tokens)
        [finding] = [finding for finding in doctor.examine(patient, online=False) if finding.id == "token.mqtt"]
    assert finding.status is status
    assert ("rsa-2048" in finding.message) is (status is doctor.Status.FAILED)


def test_csr_refuses_before_a_key_is_made(softhsm_with: Callable[[str], SoftHsmUnderTest], tmp_path: Path) -> None:
    """``csr`` with a key type that the token lacks ends with 15, without a login, and the token stays empty."""
    softhsm = softhsm_with(_ECDSA_ALONE)
    command = [sys.executable, "-m", "hsm_enroll", "csr", "--module", str(softhsm.module), "--json"]
    told = {"HSM_ENROLL_HOME": str(tmp_path / "state"), "HSM_ENROLL_PIN": "not-the-pin"}
    run = subprocess.run(
        [*command, "--key-type", "rsa-2048"],
        env={**os.environ, **told}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    error = documents.read(["csr"], run.stdout.decode())["error"]
    assert (run.returncode, error["code"]) == (15, "token-refused")
    assert "supports ec-p256, ec-p384:" in error["hint"]
    with softhsm.opened() as opened:
        assert list(opened.get_objects()) == []


def _obstacle(report: TokenReport) -> str:
    assert report.mqtt_obstacle is not None
    return str(report.mqtt_obstacle["message"])


def _no_pin(_: TokenName) -> Secret:
    raise PinMissingError("a PIN was asked for")


def _refused(name: TokenName, folder: Path, key_type: KeyType, *, publishing: bool = True) -> HsmEnrollError:
    """Enroll on a token that is refused; nothing but the token may have been looked at."""
    with Tokens() as tokens:
        ports = Ports(
            tokens=tokens,
            start_finding=lambda: lambda: selection.choose([name.module], name.uri, tokens.listed),
            pin=_no_pin,
            client=World,
            message=World() if publishing else None,
            tpm=World().tpm,
        )
        with pytest.raises(HsmEnrollError) as caught:
            enrollment.enroll(Request("press-1", key_type), folder, ports)
    return caught.value


def test_init_refuses_before_anything_is_journalled(
    softhsm_with: Callable[[str], SoftHsmUnderTest], tmp_path: Path
) -> None:
    """``init`` with a key type that the token lacks asks for no PIN and leaves no journal that holds it to the type."""
    name = softhsm_with(_ECDSA_ALONE).name
    folder = tmp_path / "state"
    assert _refused(name, folder, KeyType.RSA_2048).code == "token-refused"
    assert [path.name for path in folder.iterdir() if path.name != "lock"] == []
    assert _refused(name, folder, KeyType.EC_P256).code == "pin-missing"


@pytest.mark.parametrize(
    ("traits", "version", "advice"),
    [
        ({"CRYPTOKI_MINOR": 11}, "2.11", "Install a newer version of the module"),
        ({"CRYPTOKI_MAJOR": 3, "CRYPTOKI_MINOR": 2}, "3.2", f"--module {discovery.proxy()}"),
    ],
    ids=["old", "new"],
)
def test_a_cryptoki_that_awscrt_does_not_take(
    softhsm: SoftHsmUnderTest, key: KeyName, tmp_path: Path, traits: dict[str, int], version: str, advice: str
) -> None:
    """A module of another Cryptoki is named and refused for MQTT, which fails with it, and makes a request without.

    For SoftHSM 2.7, whose function list says 3.2, p11-kit's proxy is the way.
    """
    name = softhsm.name._replace(module=softhsm.other_module(**traits))
    assert f"implements Cryptoki {version}" in _obstacle(token_of(name.module))
    error = _refused(name, tmp_path / "state", KeyType.EC_P256)
    assert (error.exit_status, error.code) == (10, "module-unusable")
    assert advice in error.hint
    assert _refused(name, tmp_path / "state", KeyType.EC_P256, publishing=False).code == "pin-missing"
    with session.opened(name, softhsm.ask_pin, writable=True) as opened:
        pair = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    assert "PKCS11_VERSION_UNSUPPORTED" in shake(name, softhsm.pin, pair, TLS_1_2, tmp_path)


@pytest.mark.parametrize("minor", [20, 30])
def test_a_cryptoki_that_awscrt_takes(softhsm: SoftHsmUnderTest, minor: int) -> None:
    """Cryptoki 2.20 and what followed it stand in no way."""
    assert token_of(softhsm.other_module(CRYPTOKI_MINOR=minor)).mqtt_obstacle is None


def test_a_label_that_another_token_has(softhsm: SoftHsmUnderTest, key: KeyName, tmp_path: Path) -> None:
    """Two tokens of one label are told apart by serial, but not by MQTT, so that neither is enrolled."""
    softhsm.add_token(LABEL)
    reports = [report for report in listed(softhsm.module) if report.initialized]
    names = [report.name for report in reports]
    for report in reports:
        with pytest.raises(TokenAmbiguousError, match="2 tokens are labelled 'gateway'"):
            selection.require(report, KeyType.EC_P256, mqtt=True)
        selection.require(report, KeyType.EC_P256, mqtt=False)
        assert _refused(report.name, tmp_path / "state", KeyType.EC_P256).exit_status == 11
    assert {"2 tokens are labelled" in _obstacle(report) for report in reports} == {True}
    with session.opened(names[0], softhsm.ask_pin, writable=True) as opened:
        pair = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    assert "PKCS11_TOKEN_NOT_FOUND" in shake(names[0], softhsm.pin, pair, TLS_1_2, tmp_path)


def test_a_slot_that_cannot_be_read_is_in_the_way(softhsm: SoftHsmUnderTest, key: KeyName, tmp_path: Path) -> None:
    """A slot whose token its module cannot read keeps awscrt from every other one, and is told beforehand."""
    name = softhsm.name._replace(module=softhsm.faulty_module(FREE_SLOT_SAYS="0xe1"))
    assert "has a token that the module cannot read" in _obstacle(token_of(name.module))
    with pytest.raises(ModuleUnusableError, match="one of its 2 slots"):
        selection.require(token_of(name.module), KeyType.EC_P256, mqtt=True)
    with session.opened(name, softhsm.ask_pin, writable=True) as opened:
        pair = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    assert "CKR_TOKEN_NOT_RECOGNIZED" in shake(name, softhsm.pin, pair, TLS_1_2, tmp_path)


def test_a_pin_pad_is_left_to_ask(softhsm: SoftHsmUnderTest, key: KeyName, tmp_path: Path) -> None:
    """A token with a PIN pad is logged in to without a PIN, once, by us and by awscrt; nobody else is asked."""
    log = tmp_path / "logins"
    pad = softhsm.other_module(TYPED_PIN=f'"{softhsm.pin.reveal()}"', LOGIN_LOG=f'"{log}"')
    report = token_of(pad)
    assert report.protected_authentication_path
    name = report.name

    def ask() -> Secret:
        pytest.fail("a PIN was asked for")

    with session.opened(name, ask, writable=True) as opened:
        pair = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    assert log.read_text().splitlines() == ["typed"]
    assert shake(name, None, pair, TLS_1_2, tmp_path) == TLS_1_2
    assert log.read_text().splitlines() == ["typed", "typed"]
