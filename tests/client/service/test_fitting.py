"""What the services are told of this machine: by its environment, its configuration, and where its files really are."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from hsm_enroll.errors import ServiceError, UsageError
from hsm_enroll.key import TokenName
from hsm_enroll.service import fitting
from hsm_enroll.service.units import Installation

_TOKEN = TokenName(Path("/opt/vendor/lib/token.so"), "gateway", "0a1b", "Vendor", "Model")
_SOFTHSM = TokenName(Path("/usr/lib/softhsm/libsofthsm2.so"), "gateway", "0a1b", "SoftHSM project", "SoftHSM v2")


def _fitted(home: Path, token: TokenName = _TOKEN, **variables: str) -> Installation:
    return fitting.installation(home, token, {"HSM_ENROLL_HOME": str(home), **variables})


def test_the_configuration_counts_as_the_environment_does(tmp_path: Path) -> None:
    """The services see the files that config.toml names, the token's module, and what the environment names first."""
    pin = tmp_path / "the pin"
    pin.touch()
    (tmp_path / "config.toml").write_text(f'pin_file = "{pin}"\nca_file = "/srv/ca.pem"\nmodule = "/srv/module.so"\n')
    installation = _fitted(tmp_path, HSM_ENROLL_CA_FILE="/srv/other.pem", HSM_ENROLL_PIN="not for a file", EDITOR="vi")
    assert installation.pin_file == pin
    assert {pin, Path("/srv/other.pem"), Path("/srv/module.so"), _TOKEN.module} <= set(installation.read)
    assert Path("/srv/ca.pem") not in installation.read
    assert installation.environment == {"HSM_ENROLL_HOME": str(tmp_path), "HSM_ENROLL_CA_FILE": "/srv/other.pem"}
    assert installation.user == pwd.getpwuid(os.geteuid()).pw_name


def test_how_long_an_acknowledgement_may_take_is_known(tmp_path: Path) -> None:
    """It is the services' own setting, from config.toml as from the environment."""
    assert _fitted(tmp_path).operation_timeout == 20.0
    (tmp_path / "config.toml").write_text("operation_timeout = 300\n")
    assert _fitted(tmp_path).operation_timeout == 300.0
    assert _fitted(tmp_path, HSM_ENROLL_OPERATION_TIMEOUT="90").operation_timeout == 90.0


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services start in another folder: one in the environment is completed, one in config.toml is refused."""
    monkeypatch.chdir(tmp_path)
    assert _fitted(tmp_path, HSM_ENROLL_CA_FILE="ca.pem").environment["HSM_ENROLL_CA_FILE"] == f"{tmp_path}/ca.pem"
    (tmp_path / "config.toml").write_text('ca_file = "ca.pem"\n')
    with pytest.raises(UsageError, match=r"ca_file is the relative path 'ca\.pem'"):
        _fitted(tmp_path)


def test_somebody_elses_pin_file_is_refused(tmp_path: Path) -> None:
    """Root's services have no right to other users' files, nor have another user's to root's."""
    file = tmp_path / "pin-file"
    if os.geteuid() == 0:
        file.touch()
        os.chown(file, 1, 1)
    else:
        file.symlink_to("/etc/passwd")
    with pytest.raises(ServiceError, match="does not belong to") as raised:
        _fitted(tmp_path, HSM_ENROLL_PIN_FILE=str(file))
    assert f"chown {pwd.getpwuid(os.geteuid()).pw_name} {file}" in raised.value.hint


def test_links_are_followed(tmp_path: Path) -> None:
    """The services may write to where the state folder and the tokens really are, and see what a link in them names."""
    for name in ("home", "tokens", "elsewhere"):
        (tmp_path / name).mkdir()
    home, tokens = tmp_path / "home-link", tmp_path / "tokens-link"
    home.symlink_to(tmp_path / "home")
    tokens.symlink_to(tmp_path / "tokens")
    (home / "pin").symlink_to("/srv/pin")
    (tokens / "one").symlink_to(tmp_path / "elsewhere")
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tokens}\n")
    installation = _fitted(home, _SOFTHSM, SOFTHSM2_CONF=str(configuration))
    folders = {home, tokens, *(tmp_path / name for name in ("home", "tokens", "elsewhere"))}
    assert folders <= set(installation.written)
    assert {home / "pin", Path("/srv/pin"), configuration} <= set(installation.read)


def test_the_owners_own_softhsm_is_meant(tmp_path: Path) -> None:
    """The services run as the state folder's owner, not as the administrator who installs them."""
    home = tmp_path / "administrator"
    (home / ".config/softhsm2").mkdir(parents=True)
    (home / ".config/softhsm2/softhsm2.conf").write_text(f"directories.tokendir = {home}\n")
    assert home not in _fitted(tmp_path, _SOFTHSM, HOME=str(home)).written


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_an_owner_without_a_name_is_refused(tmp_path: Path) -> None:
    """systemd starts a service as a user that the machine knows."""
    os.chown(tmp_path, 54321, 54321)
    with pytest.raises(ServiceError, match="user id 54321"):
        _fitted(tmp_path)
