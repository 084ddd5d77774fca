"""pytest fixtures for programs that use hsm-enroll: a cloud on this machine, a token, a device that is enrolled.

The package is a pytest plugin, which pytest finds by itself (entry point ``pytest11``). It costs a run that does not
use its fixtures nearly nothing. The fixtures require the extra ``local``, and the programs mosquitto and SoftHSM::

    from hsm_enroll import connect
    from hsm_enroll.testing import EnrolledDevice

    def test_temperature(enrolled_device: EnrolledDevice) -> None:
        with connect(enrolled_device.identity) as connection:
            connection.publish(f"device/{enrolled_device.thing_name}/temperature", b"21.5")

- `local_cloud`, one for each session (with pytest-xdist, for each worker), is an `Endpoints`. It requires no invites.
- `softhsm_token`, a new one for each test, is a `SoftHsmToken`.
- `enrolled_device`, a new one for each test, is an `EnrolledDevice`: its key is in `softhsm_token`, its certificate is
  from `local_cloud`.

The last two set environment variables until the test ends: the library finds the token and the cloud, and so do the
command ``hsm-enroll`` and AWS's own tools if the test starts them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from hsm_enroll.local.endpoints import Endpoints

if TYPE_CHECKING:
    from hsm_enroll.secret import Secret
    from hsm_enroll.store.identity import Identity

__all__ = ["Endpoints", "EnrolledDevice", "SoftHsmToken", "enrolled_device", "local_cloud", "softhsm_token"]

_START_SECONDS = 60.0


@dataclass(frozen=True)
class SoftHsmToken:
    """A token in SoftHSM that only this test uses.

    Attributes:
        uri: its ``pkcs11:`` URI (RFC 7512).
        label: its label.
        module: the file of the PKCS#11 module.
        pin: its user PIN, which is also saved in ``home``.
        home: the folder of the device's configuration and state; the variable HSM_ENROLL_HOME names it.
    """

    uri: str
    label: str
    module: Path
    pin: Secret
    home: Path


@dataclass(frozen=True)
class EnrolledDevice:
    """A device that only this test uses.

    Attributes:
        identity: its Thing, its certificate, and which key in which token belongs to it.
        token: its token.
        cloud: where it is enrolled.
    """

    identity: Identity
    token: SoftHsmToken
    cloud: Endpoints

    @property
    def thing_name(self) -> str:
        """The name of its Thing, which is unique."""
        return self.identity.thing_name


@pytest.fixture(scope="session")
def local_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """A cloud on this machine that requires no invites; sets no environment variables, see `Endpoints.exports`."""
    from hsm_enroll import extras
    from hsm_enroll.local.cloud import detach, down

    if find_spec("moto") is None:
        pytest.fail(f"moto is not installed.\n{extras.hint('local')}", pytrace=False)
    home = tmp_path_factory.mktemp("local-cloud")
    with _explained():
        endpoints = detach(home, _START_SECONDS, ends_with_caller=True)
    yield endpoints
    down(home)


@pytest.fixture
def softhsm_token(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftHsmToken]:
    """A new token in SoftHSM; until the test ends, there is no other, and no other configuration of hsm-enroll."""
    from hsm_enroll import settings
    from hsm_enroll.device import device_token, pin
    from hsm_enroll.store import files
    from hsm_enroll.token.reports import TokenKind
    from hsm_enroll.token.tokens import Tokens

    folder = tmp_path_factory.mktemp("gateway")
    (folder / "tokens").mkdir(mode=0o700)
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    for variable in [variable for variable in os.environ if variable.startswith("HSM_ENROLL_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    monkeypatch.setenv("HSM_ENROLL_HOME", str(folder / "home"))
    resolved = settings.load(os.environ, {})
    with _explained(), files.locked(resolved.state), Tokens() as tokens:
        module = device_token.module_for(TokenKind.SOFTHSM, resolved)
        name = device_token.create(tokens, resolved.state, module, f"test-{uuid4().hex[:8]}", None)
    secret = pin.read_file(pin.saved_pin_file(resolved.state))
    yield SoftHsmToken(str(name.uri), name.label, module, secret, resolved.state)
    _finalize(module)


@pytest.fixture
def enrolled_device(
    softhsm_token: SoftHsmToken, local_cloud: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> EnrolledDevice:
    """A device that is enrolled in the local cloud; until the test ends, the environment points to that cloud."""
    from hsm_enroll import enroll

    for name, value in local_cloud.exports().items():
        monkeypatch.setenv(name, value)
    with _explained():
        return EnrolledDevice(enroll(f"device-{uuid4().hex[:12]}"), softhsm_token, local_cloud)


def _finalize(module: Path) -> None:
    """Let SoftHSM read its configuration anew if this process has loaded it.

    It does so in C_Initialize alone, awscrt never calls C_Finalize, and on Debian 13 dlclose() leaves it loaded.
    """
    try:
        loaded = ctypes.CDLL(str(module), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return
    loaded.C_Finalize(None)


@contextmanager
def _explained() -> Iterator[None]:
    """Let a test fail with an error's message and hint, and without a traceback through this package."""
    from hsm_enroll.errors import HsmEnrollError

    try:
        yield
    except HsmEnrollError as error:
        pytest.fail(f"{error.message}\n{error.hint}", pytrace=False)
