"""The tokens of this folder's tests.

A test that takes ``token`` is part of the conformance suite: it runs once for each entry of ``_TOKENS``, or on the one
token that pytest's ``--module`` names (see ``options``), and asks for nothing that is not every token's. Marked
``own_token`` it is left out there. One that takes ``key_type`` too runs for each type that the token has, and one that
takes ``any_key_type`` with the first of them. A test that takes ``softhsm`` or ``tpm`` is about that one, or uses it to
build a situation that no real token shows on demand.

Everything runs in the test's own process, except what the code under test itself puts into a child. A module reads
its environment once, when it is initialised, and stays loaded; so each token brings its own copy of its module's file
(see ``softhsm.SoftHsmUnderTest``), which is then initialised in the environment of its own fixture.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pkcs11
import pytest

from hsm_enroll.device import pin
from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.key import KeyType
from hsm_enroll.secret import Secret
from hsm_enroll.token import capabilities, selection, session
from hsm_enroll.uri import Pkcs11Uri
from tests.support import tpm2
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tokens import listed
from tests.support.tpm2 import Tpm2
from tests.support.under_test import LABEL, GivenToken, KeyName, OwnToken, TokenUnderTest
from tests.tokens.options import GIVEN

_Token = TypeVar("_Token", bound=TokenUnderTest)

# The name of the token and the session-wide fixture that provides it.
_TOKENS = {"softhsm": "shared_softhsm", "tpm2-pkcs11": "shared_tpm"}
_PROVIDERS = {**_TOKENS, GIVEN: "given_token"}

# What ours make and sign with; ``test_capabilities`` holds the code under test to it. A given one is asked.
KEY_TYPES = {
    "softhsm": list(KeyType),
    "tpm2-pkcs11": [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048, KeyType.RSA_3072],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of the conformance suite on each token, and one that takes ``key_type`` with each of its types."""
    chosen = {name for mark in metafunc.definition.iter_markers("parametrize") for name in _names(mark.args[0])}
    if "token" not in metafunc.fixturenames or "token" in chosen:
        return
    tokens = list(_TOKENS) if metafunc.config.option.module is None else [GIVEN]
    if "key_type" not in metafunc.fixturenames or "key_type" in chosen:
        metafunc.parametrize("token", tokens, indirect=True)
        return
    pairs = [(token, key_type) for token in tokens for key_type in _key_types(token, metafunc.config)]
    ids = [f"{token}-{key_type}" for token, key_type in pairs]
    metafunc.parametrize(("token", "key_type"), pairs, indirect=["token"], ids=ids)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests about key types that the named token does not have, where one was named."""
    if config.option.module is None:
        return
    offered = _key_types(GIVEN, config)
    left_out = [item for item in items if _key_type_of(item, offered[0]) not in offered]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _key_type_of(item: pytest.Item, otherwise: KeyType) -> KeyType:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    key_type = parameters.get("key_type")
    return key_type if isinstance(key_type, KeyType) else otherwise


def _names(argument: str | list[str] | tuple[str, ...]) -> list[str]:
    return [name.strip() for name in argument.split(",")] if isinstance(argument, str) else list(argument)


def _key_types(token: str, config: pytest.Config) -> list[KeyType]:
    if token in KEY_TYPES:
        return KEY_TYPES[token]
    wanted = Pkcs11Uri(token=config.option.token_label, serial=config.option.token_serial)
    try:
        return list(selection.choose([config.option.module], wanted, listed).key_types)
    except HsmEnrollError as error:
        raise pytest.UsageError(f"{error.message} {error.hint}") from error


@pytest.fixture(scope="session")
def shared_softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsmUnderTest]:
    """Provide one SoftHSM token for the whole run."""
    softhsm = SoftHsmUnderTest(tmp_path_factory.mktemp("softhsm"))
    softhsm.add_token(LABEL)
    yield softhsm
    pkcs11.unload(str(softhsm.module))


@pytest.fixture(scope="session")
def shared_tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm2]:
    """Provide one TPM with a tpm2-pkcs11 token for the whole run: making it takes seconds."""
    with tpm2.provided(tmp_path_factory.mktemp("tpm2")) as tpm:
        yield tpm
        pkcs11.unload(str(tpm.module))


@pytest.fixture(scope="session")
def given_token(pytestconfig: pytest.Config) -> GivenToken:
    """Provide the token that pytest's command line names; its PIN is where ``hsm-enroll`` would look for it.

    Where it cannot be logged in to, that is found out here, once, and fails every test: none tries the PIN again.
    """
    file = os.environ.get("HSM_ENROLL_PIN_FILE")
    options = pytestconfig.option
    try:
        secret = pin.resolve(Path(file) if file else None, os.environ, saved_pin=lambda: None, ask=None)
        given = GivenToken(options.module.absolute(), options.token_label, options.token_serial, secret)
        with given.opened():
            pass
    except HsmEnrollError as error:
        pytest.fail(f"{error.message}. {error.hint}", pytrace=False)
    return given


@pytest.fixture
def token(request: pytest.FixtureRequest, key: KeyName, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenUnderTest]:
    """Provide each token in turn; ours keep what earlier tests put into them, a given one does not."""
    provided: TokenUnderTest = request.getfixturevalue(_PROVIDERS[request.param])
    yield _entered(provided, monkeypatch)
    if isinstance(provided, GivenToken):
        provided.destroy_keys_named_after(key)


@pytest.fixture
def any_key_type(token: TokenUnderTest) -> KeyType:
    """Provide the first key type that the token has, for tests that are not about the type."""
    return capabilities.read(session.find(token.name)).key_types[0]


@pytest.fixture
def tpm(shared_tpm: Tpm2, monkeypatch: pytest.MonkeyPatch) -> Tpm2:
    """Provide the TPM's token."""
    return _entered(shared_tpm, monkeypatch)


@pytest.fixture(scope="module")
def softhsm_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsmUnderTest]:
    """Provide a SoftHSM with the one token ``gateway`` to all tests of a module, each of which leaves it as it was."""
    made = SoftHsmUnderTest(tmp_path_factory.mktemp("softhsm"))
    with pytest.MonkeyPatch.context() as patch:
        _entered(made, patch).add_token(LABEL)
        yield made
    _unload_modules_in(made.folder)


@pytest.fixture
def empty_softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsmUnderTest:
    """Provide a SoftHSM without tokens."""
    return _entered(SoftHsmUnderTest(tmp_path), monkeypatch)


@pytest.fixture
def softhsm(empty_softhsm: SoftHsmUnderTest) -> SoftHsmUnderTest:
    """Provide a SoftHSM of the test's own with the one token ``gateway``."""
    empty_softhsm.add_token(LABEL)
    return empty_softhsm


@pytest.fixture
def softhsm_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], SoftHsmUnderTest]:
    """Provide a function that makes a SoftHSM with the one token ``gateway`` and a choice of mechanisms."""

    def make(mechanisms: str) -> SoftHsmUnderTest:
        made = _entered(SoftHsmUnderTest(tmp_path, mechanisms=mechanisms), monkeypatch)
        made.add_token(LABEL)
        return made

    return make


@pytest.fixture
def key() -> KeyName:
    """Provide a name that no key has yet."""
    key_id = secrets.token_bytes(8)
    return KeyName(f"device-{key_id.hex()}", key_id)


@pytest.fixture
def wrong_pin(token: OwnToken) -> Iterator[Secret]:
    """Provide a PIN that is not the token's, and make the token forget that it was tried."""
    yield Secret("wrong-" + secrets.token_hex(4))
    token.forget_wrong_pins()


@pytest.fixture
def spied(token: OwnToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Put OpenSC's pkcs11-spy in front of the token's module; give what C_Login returned, call by call."""
    spies = sorted(Path("/usr/lib").glob("*/pkcs11-spy.so"))
    if not spies:
        pytest.fail("the token tests need pkcs11-spy.so, from the Debian package opensc-pkcs11", pytrace=False)
    log = tmp_path / "spy.log"
    (tmp_path / "spied").mkdir()
    monkeypatch.setenv("PKCS11SPY", str(token.module_copy(tmp_path / "spied")))
    monkeypatch.setenv("PKCS11SPY_OUTPUT", str(log))
    (tmp_path / "pkcs11-spy.so").write_bytes(spies[0].read_bytes())

    def logins() -> list[str]:
        calls = re.split(r"^\d+: ", log.read_text(), flags=re.MULTILINE)
        answers = [call.partition("Returned:")[2].split() for call in calls if call.startswith("C_Login\n")]
        return [answer[1] for answer in answers]

    return logins


@pytest.fixture(autouse=True)
def _own_modules_unloaded(tmp_path: Path) -> Iterator[None]:
    """Unload the modules that the test had in its own folder."""
    yield
    _unload_modules_in(tmp_path)


def _unload_modules_in(folder: Path) -> None:
    for module in folder.rglob("*.so"):
        pkcs11.unload(str(module))


def _entered(provided: _Token, monkeypatch: pytest.MonkeyPatch) -> _Token:
    """Set the environment for the test's length, for this process and its children."""
    for name, value in provided.environment.items():
        monkeypatch.setenv(name, value)
    return provided
