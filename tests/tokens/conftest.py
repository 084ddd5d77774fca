"""The tokens of this folder's tests.

A test that takes ``token`` is part of the conformance suite: it runs once for each entry of ``_TOKENS`` and asks for
nothing that is not every token's. A test that takes ``softhsm`` or ``tpm`` is about that one, or uses it to build a
situation that no real token shows on demand.

Everything runs in the test's own process, except what the code under test itself puts into a child. A module reads
its environment once, when it is initialised, and stays loaded; so each token brings its own copy of its module's file
(see ``softhsm.SoftHsm``), which is then initialised in the environment of its own fixture.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pkcs11
import pytest

from hsm_enroll.secret import Secret
from tests.tokens import tpm2
from tests.tokens.softhsm import SoftHsm
from tests.tokens.tpm2 import Tpm2
from tests.tokens.under_test import LABEL, KeyName, TokenUnderTest

_Token = TypeVar("_Token", bound=TokenUnderTest)

# The name of the token and the session-wide fixture that provides it.
_TOKENS = {"softhsm": "shared_softhsm", "tpm2-pkcs11": "shared_tpm"}


@pytest.fixture(scope="session")
def shared_softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """Provide one SoftHSM token for the whole run."""
    softhsm = SoftHsm(tmp_path_factory.mktemp("softhsm"))
    softhsm.add_token(LABEL)
    yield softhsm
    pkcs11.unload(str(softhsm.module))


@pytest.fixture(scope="session")
def shared_tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm2]:
    """Provide one TPM with a tpm2-pkcs11 token for the whole run: making it takes seconds."""
    with tpm2.provided(tmp_path_factory.mktemp("tpm2")) as tpm:
        yield tpm
        pkcs11.unload(str(tpm.module))


@pytest.fixture(params=list(_TOKENS))
def token(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TokenUnderTest:
    """Provide each token in turn; it keeps what earlier tests put into it."""
    provided: TokenUnderTest = request.getfixturevalue(_TOKENS[request.param])
    return _entered(provided, monkeypatch)


@pytest.fixture
def tpm(shared_tpm: Tpm2, monkeypatch: pytest.MonkeyPatch) -> Tpm2:
    """Provide the TPM's token."""
    return _entered(shared_tpm, monkeypatch)


@pytest.fixture
def empty_softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    """Provide a SoftHSM without tokens."""
    return _entered(SoftHsm(tmp_path), monkeypatch)


@pytest.fixture
def softhsm(empty_softhsm: SoftHsm) -> SoftHsm:
    """Provide a SoftHSM of the test's own with the one token ``gateway``."""
    empty_softhsm.add_token(LABEL)
    return empty_softhsm


@pytest.fixture
def softhsm_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], SoftHsm]:
    """Provide a function that makes a SoftHSM with the one token ``gateway`` and a choice of mechanisms."""

    def make(mechanisms: str) -> SoftHsm:
        made = _entered(SoftHsm(tmp_path, mechanisms=mechanisms), monkeypatch)
        made.add_token(LABEL)
        return made

    return make


@pytest.fixture
def key() -> KeyName:
    """Provide a name that no key has yet."""
    key_id = secrets.token_bytes(8)
    return KeyName(f"device-{key_id.hex()}", key_id)


@pytest.fixture
def wrong_pin(token: TokenUnderTest) -> Iterator[Secret]:
    """Provide a PIN that is not the token's, and make the token forget that it was tried."""
    yield Secret("wrong-" + secrets.token_hex(4))
    token.forget_wrong_pins()


@pytest.fixture
def spied(token: TokenUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
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
    for module in [path for path in pkcs11._loaded if Path(path).is_relative_to(tmp_path)]:
        pkcs11.unload(module)


def _entered(provided: _Token, monkeypatch: pytest.MonkeyPatch) -> _Token:
    """Set the environment for the test's length, for this process and its children."""
    for name, value in provided.environment.items():
        monkeypatch.setenv(name, value)
    return provided
