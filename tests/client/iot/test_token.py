"""The token's side of a connection: what is wrong with module, token, PIN or key, and how often a PIN is tried."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import traceback
from pathlib import Path

import pytest

from hsm_enroll.errors import (
    HsmEnrollError,
    KeyMissingError,
    ModuleMissingError,
    ModuleUnusableError,
    PinWrongError,
    TokenNotFoundError,
)
from hsm_enroll.key import KeyType
from hsm_enroll.secret import Secret
from hsm_enroll.store.identity import Identity
from tests.client.iot import cryptoki
from tests.client.iot.apart import apart, connect, publish_apart
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.softhsm import MODULE, PIN, SoftHsm

_WRONG_PIN = "314159-not-the-pin"


@pytest.fixture
def reachable(identity: Identity, broker: Broker) -> Identity:
    """A device whose broker is there."""
    return dataclasses.replace(identity, mqtt_port=broker.port)


def test_one_connection_is_one_login(reachable: Identity, authority: Authority) -> None:
    """D1: connecting and publishing logs in once, signs in the token, and closes the session it opened.

    It is closed, by a module that takes its time as well, when the connection is: nothing uses the module any more.
    """
    calls = apart(_watched_publish, reachable, authority.certificate)
    assert calls.count("C_Login") == 1
    assert calls.count("C_OpenSession") == calls.count("C_CloseSession") == 1
    assert "C_Sign" in calls


def _watched_publish(identity: Identity, ca_file: Path) -> list[str]:
    cryptoki.replace("C_CloseSession", cryptoki.slowly)
    calls = cryptoki.watch("C_OpenSession", "C_Login", "C_Sign", "C_CloseSession")
    with connect(identity, PIN, ca_file=ca_file) as connection:
        connection.publish(f"device/{identity.thing_name}/x", b"x")
    return calls.names


@pytest.mark.parametrize("purpose", [None, "try"])
def test_a_wrong_pin_is_tried_once(purpose: str | None, reachable: Identity, authority: Authority) -> None:
    """D1: a wrong PIN costs exactly one C_Login, whatever the client id, and the broker is not spoken to."""
    kind, calls = apart(_watched_wrong_pin, reachable, authority.certificate, purpose)
    assert (kind, calls) == ("PinWrongError", ["C_Login"])


def _watched_wrong_pin(identity: Identity, ca_file: Path, purpose: str | None) -> tuple[str, list[str]]:
    calls = cryptoki.watch("C_Login", "C_Sign")
    with pytest.raises(PinWrongError) as caught:
        connect(identity, Secret(_WRONG_PIN), purpose=purpose, ca_file=ca_file, tls13=True)
    return type(caught.value).__name__, calls.names


def test_a_wrong_pin_does_not_show(reachable: Identity, authority: Authority) -> None:
    """D4: neither the error of a wrong PIN nor its traceback, locals included, holds the PIN."""
    shown = apart(_traceback_of_wrong_pin, reachable, authority.certificate)
    assert "PinWrongError" in shown
    assert _WRONG_PIN not in shown


def _traceback_of_wrong_pin(identity: Identity, ca_file: Path) -> str:
    pin = Secret(_WRONG_PIN)
    with pytest.raises(PinWrongError) as caught:
        connect(identity, pin, ca_file=ca_file)
    output = io.StringIO()
    traceback.TracebackException.from_exception(caught.value, capture_locals=True).print(file=output)
    return output.getvalue()


@pytest.mark.parametrize("pin", [PIN.reveal(), _WRONG_PIN], ids=["right", "wrong"])
def test_awscrt_logs_no_pin(pin: str, reachable: Identity, authority: Authority, tmp_path: Path) -> None:
    """D4: at its most talkative awscrt logs the login, and not the PIN."""
    log = tmp_path / "awscrt.log"
    apart(_logged_connect, reachable, authority.certificate, pin, log)
    content = log.read_text()
    assert "PKCS#11" in content
    assert pin not in content
    assert pin.encode().hex() not in content.lower()


def _logged_connect(identity: Identity, ca_file: Path, pin: str, log: Path) -> None:
    from awscrt import io as awscrt_io

    awscrt_io.init_logging(awscrt_io.LogLevel.Trace, str(log))
    try:
        connect(identity, Secret(pin), ca_file=ca_file).close()
    except PinWrongError:
        assert pin == _WRONG_PIN
    ctypes.CDLL(None).fflush(None)  # a fork ends without it


@pytest.mark.parametrize(
    ("function", "value", "code"),
    [
        ("C_Initialize", cryptoki.CKR_GENERAL_ERROR, "module-unusable"),
        ("C_Login", cryptoki.CKR_PIN_LOCKED, "pin-locked"),
        ("C_Login", cryptoki.CKR_PIN_LEN_RANGE, "pin-wrong"),
        ("C_Login", cryptoki.CKR_PIN_EXPIRED, "token-refused"),
        ("C_OpenSession", cryptoki.CKR_TOKEN_NOT_PRESENT, "token-not-found"),
        ("C_Sign", cryptoki.CKR_DEVICE_ERROR, "token-refused"),
        ("C_Sign", cryptoki.CKR_DEVICE_REMOVED, "token-not-found"),
    ],
)
def test_what_a_token_refuses_is_told(
    function: str, value: int, code: str, reachable: Identity, authority: Authority
) -> None:
    """D2, D7: a return value other than CKR_OK becomes its own error, in the middle of the handshake too."""
    told = apart(_connect_failing, reachable, authority.certificate, function, value)
    assert told == code


def _connect_failing(identity: Identity, ca_file: Path, function: str, value: int) -> str:
    cryptoki.fail(function, value)
    with pytest.raises(HsmEnrollError) as caught:
        connect(identity, PIN, ca_file=ca_file)
    return caught.value.code


def test_a_token_that_is_gone_is_not_found(
    reachable: Identity, authority: Authority, softhsm: SoftHsm, tmp_path: Path
) -> None:
    """D6: with the token's folder moved away nothing is published: there is no key anywhere else."""
    folder = softhsm.token_folder("gateway")
    folder.rename(tmp_path / "away")
    try:
        with pytest.raises(TokenNotFoundError, match="'gateway' is not there"):
            _publish(reachable, authority)
    finally:
        (tmp_path / "away").rename(folder)
    _publish(reachable, authority)


def test_a_module_without_its_store_is_unusable(
    reachable: Identity, authority: Authority, softhsm: SoftHsm, tmp_path: Path
) -> None:
    """D6: with the folder of all tokens moved away SoftHSM does not start, and that is told of the module."""
    softhsm.tokens.rename(tmp_path / "away")
    try:
        with pytest.raises(ModuleUnusableError, match="AWS_ERROR_PKCS11_CKR_GENERAL_ERROR"):
            _publish(reachable, authority)
    finally:
        (tmp_path / "away").rename(softhsm.tokens)


def test_two_tokens_of_one_label_are_not_chosen_from(reachable: Identity, authority: Authority) -> None:
    """D6: where two tokens have the label, none gets the PIN, and the hint says what to do."""
    identity = dataclasses.replace(reachable, token=reachable.token._replace(label="twin"))
    with pytest.raises(TokenNotFoundError, match="several") as caught:
        _publish(identity, authority)
    assert "relabel" in caught.value.hint


def test_two_keys_of_one_label_are_not_chosen_from(reachable: Identity, authority: Authority, softhsm: SoftHsm) -> None:
    """D8: where two private keys have the label, neither signs, and the hint says what to do."""
    for key_id in (b"\x21", b"\x22"):
        softhsm.create_key("gateway", "twin", KeyType.EC_P256, key_id)
    with pytest.raises(KeyMissingError, match="several") as caught:
        _publish(dataclasses.replace(reachable, key_label="twin"), authority)
    assert "relabel" in caught.value.hint


def test_a_key_that_is_gone_is_missing(reachable: Identity, authority: Authority) -> None:
    """D8: a token without the key is told from a token that is not there."""
    with pytest.raises(KeyMissingError, match="'gateway' has no private key 'lost'"):
        _publish(dataclasses.replace(reachable, key_label="lost"), authority)


def test_a_module_that_is_not_there_is_missing(reachable: Identity, authority: Authority, tmp_path: Path) -> None:
    """D5: a module whose file does not exist is "missing"."""
    with pytest.raises(ModuleMissingError):
        _publish(_with_module(reachable, tmp_path / "absent.so"), authority)


def test_a_file_that_is_no_library_is_unusable(reachable: Identity, authority: Authority, tmp_path: Path) -> None:
    """D5: a module that the loader does not take is "unusable"."""
    text = tmp_path / "text.so"
    text.write_text("not a library\n")
    with pytest.raises(ModuleUnusableError, match="AWS_IO_SHARED_LIBRARY_LOAD_FAILURE"):
        _publish(_with_module(reachable, text), authority)


def test_a_library_that_is_no_module_is_unusable(reachable: Identity, authority: Authority) -> None:
    """D5: a shared library without C_GetFunctionList is "unusable"."""
    needed = Path("/proc/self/maps").read_text(encoding="utf-8").split()
    library = next(path for path in needed if "/libc.so" in path)
    with pytest.raises(ModuleUnusableError, match="AWS_IO_SHARED_LIBRARY_FIND_SYMBOL_FAILURE"):
        _publish(_with_module(reachable, Path(library)), authority)


def _with_module(identity: Identity, module: Path) -> Identity:
    assert module != MODULE
    return dataclasses.replace(identity, token=identity.token._replace(module=module))


def _publish(identity: Identity, authority: Authority) -> None:
    topic = f"device/{identity.thing_name}/x"
    publish_apart(identity, topic, b"x", ca_file=authority.certificate)
