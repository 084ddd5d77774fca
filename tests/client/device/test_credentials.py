"""The use case of AWS credentials: kept until shortly before they end, got anew then, and by one process at a time."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.device import credentials
from hsm_enroll.errors import (
    BackendUnreachableError,
    CredentialsRefusedError,
    HsmEnrollError,
    RoleAliasMissingError,
    StateError,
    ThrottledError,
)
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.store import aws_credentials
from hsm_enroll.store.aws_credentials import AwsCredentials, Cached
from tests.support.identities import identity
from tests.support.processes import is_awaited, wait_until

ALIAS = RoleAlias("gateways", "credentials.example", 443)
IDENTITY = identity(role_alias=ALIAS)
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
FILE = "aws-credentials.json"


@dataclass
class Provider:
    """A credentials provider and a clock, and what they were asked.

    Attributes:
        lifetime: of the credentials that it gives.
        error: what it raises instead.
        now: what the clock shows.
        asked: for which aliases.
        warnings: what was told meanwhile.
    """

    folder: Path
    lifetime: timedelta = timedelta(hours=1)
    error: HsmEnrollError | None = None
    now: datetime = NOON
    asked: list[RoleAlias] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fetch(self, alias: RoleAlias) -> AwsCredentials:
        """Give credentials whose id is the number of the request."""
        self.asked.append(alias)
        if self.error is not None:
            raise self.error
        return AwsCredentials(f"ASIA{len(self.asked)}", Secret("secret"), Secret("token"), self.now + self.lifetime)

    def current(self, certificate_id: str = IDENTITY.certificate_id, alias: RoleAlias = ALIAS) -> str:
        """Return the id of the credentials that a device has now."""
        mine = identity(certificate_id=certificate_id)
        return credentials.current(
            mine, alias, self.folder, self.fetch, self.warnings.append, lambda: self.now
        ).access_key_id

    def after(self, minutes: float) -> str:
        """Return the same, some time after noon."""
        self.now = NOON + timedelta(minutes=minutes)
        return self.current()


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    """One that gives credentials for an hour."""
    return Provider(tmp_path / "state")


def test_they_are_kept_until_awss_sdks_would_ask_for_others(provider: Provider) -> None:
    """boto3 asks from 15 minutes before the end on: it would start a process for each request after that."""
    assert [provider.after(minutes) for minutes in (0, 1, 44.9)] == ["ASIA1"] * 3
    assert provider.after(45) == "ASIA2"
    assert provider.after(89) == "ASIA2"


def test_short_lived_ones_are_kept_for_three_quarters_of_their_time(provider: Provider) -> None:
    """With the least that AWS allows, 15 minutes, they would never be kept otherwise."""
    provider.lifetime = timedelta(minutes=15)
    assert [provider.after(minutes) for minutes in (0, 11.2, 11.3)] == ["ASIA1", "ASIA1", "ASIA2"]


@pytest.mark.parametrize(
    ("certificate_id", "alias"),
    [
        ("cd" * 32, ALIAS),
        (IDENTITY.certificate_id, ALIAS._replace(name="others")),
        (IDENTITY.certificate_id, ALIAS._replace(endpoint="other.example")),
        (IDENTITY.certificate_id, ALIAS._replace(port=8443)),
    ],
)
def test_they_are_for_one_certificate_alias_and_provider(
    provider: Provider, certificate_id: str, alias: RoleAlias
) -> None:
    """After a renewal, or with another role, others are got."""
    assert provider.current() == "ASIA1"
    assert provider.current(certificate_id, alias) == "ASIA2"
    assert provider.asked == [ALIAS, alias]


def test_a_clock_that_was_set_back_spoils_them(provider: Provider) -> None:
    """Nobody knows how long they last then."""
    provider.current()
    assert provider.after(-1) == "ASIA2"


@pytest.mark.parametrize("error", [BackendUnreachableError("away"), ThrottledError("busy")])
def test_without_a_provider_they_are_used_until_they_end(provider: Provider, error: HsmEnrollError) -> None:
    """A gateway whose network fails for some minutes goes on, with a warning; after that it is an error."""
    provider.current()
    provider.error = error
    assert provider.after(50) == "ASIA1"
    assert provider.warnings == [f"{error.message}; these credentials end in 10 min"]
    with pytest.raises(type(error)):
        provider.after(60)
    provider.error = None
    assert provider.after(61) == "ASIA4"


def test_a_refusal_is_told_though_they_have_not_ended(provider: Provider) -> None:
    """A device that is revoked is told so as soon as it asks."""
    provider.current()
    provider.error = CredentialsRefusedError("Access Denied")
    with pytest.raises(CredentialsRefusedError):
        provider.after(50)
    assert provider.warnings == []


def test_several_at_once_ask_once(provider: Provider) -> None:
    """Each would log in to the token; the others wait, and have what the first one got."""
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: provider.current(), range(4))) == {"ASIA1"}
    assert len(provider.asked) == 1


def test_removal_waits_for_whoever_is_getting_them(provider: Provider) -> None:
    """Else they would be written after all that a retired device had is gone, and nothing would remove them."""
    provider.current()
    lock = provider.folder / "aws-credentials.lock"
    with ThreadPoolExecutor(1) as pool:

        def fetch(alias: RoleAlias) -> AwsCredentials:
            removal = pool.submit(aws_credentials.remove, provider.folder)
            wait_until(lambda: removal.done() or is_awaited(lock), "the removal", provider.folder / FILE)
            return provider.fetch(alias)

        provider.now += timedelta(hours=2)
        credentials.current(IDENTITY, ALIAS, provider.folder, fetch, provider.warnings.append, lambda: provider.now)
    assert list(provider.folder.iterdir()) == []


def test_the_file_is_for_its_owner_alone(provider: Provider) -> None:
    """Mode 0600, in a folder of mode 0700; what is shown of its content has no secret."""
    provider.current()
    assert stat.S_IMODE((provider.folder / FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(provider.folder.stat().st_mode) == 0o700
    cached = Cached.load(provider.folder)
    assert cached is not None
    assert cached.credentials.secret_access_key.reveal() == "secret"
    assert "secret'" not in repr(cached)


def _rewritten(change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda file: file.write_text(change(file.read_text()))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\xff\x00"),
        lambda file: file.write_text("[" * 100_000),
        _rewritten(lambda text: text[:-20]),
        _rewritten(lambda text: text.replace('"version": 1', '"version": 2')),
        _rewritten(lambda text: text.replace('"secret"', "null")),
        _rewritten(lambda text: text.replace('"token"', '"\\u001b[2J"')),
        _rewritten(lambda text: text.replace("13:00:00Z", "25:00:00Z")),
        _rewritten(lambda text: text.replace("13:00:00Z", "13:00:00")),
        _rewritten(lambda text: re.sub(r'"20[^"]+13:00:00Z"', '"9999-12-31T23:59:59-14:00"', text)),
        _rewritten(lambda text: text.replace('"port": 443', '"port": "443"')),
    ],
    ids=["empty", "binary", "deep", "cut", "newer", "no secret", "control", "no time", "no zone", "late", "no port"],
)
def test_a_damaged_file_is_replaced(provider: Provider, damage: Callable[[Path], object]) -> None:
    """D12: whatever is in it, others are got, and the file is good again."""
    provider.current()
    damage(provider.folder / FILE)
    assert [provider.current(), provider.current()] == ["ASIA2", "ASIA2"]


def test_a_file_that_cannot_be_written_is_a_warning(provider: Provider) -> None:
    """D11: the credentials are there all the same; the next call gets others."""
    provider.folder.mkdir(mode=0o700)
    (provider.folder / FILE).mkdir()
    assert [provider.current(), provider.current()] == ["ASIA1", "ASIA2"]
    assert provider.warnings[0].startswith("the credentials are not kept for the next call: ")


def test_a_folder_that_is_somebody_elses_file_is_an_error(provider: Provider) -> None:
    """D11: as for every command that writes to the state folder."""
    provider.folder.write_text("")
    with pytest.raises(StateError):
        provider.current()


@pytest.mark.parametrize(
    ("settings", "alias"),
    [
        ({}, ALIAS),
        ({"role_alias": "others"}, ALIAS._replace(name="others")),
        ({"credentials_endpoint": "localhost", "credentials_port": 8443}, RoleAlias("gateways", "localhost", 8443)),
    ],
)
def test_settings_override_the_identity(settings: dict[str, Any], alias: RoleAlias, tmp_path: Path) -> None:
    """One by one."""
    assert credentials.alias_of(IDENTITY, Settings(tmp_path, **settings)) == alias


def test_settings_are_enough_without_the_backends_help(tmp_path: Path) -> None:
    """For a role alias that was there before; its provider listens on 443."""
    named = Settings(tmp_path, role_alias="gateways", credentials_endpoint="credentials.example")
    assert credentials.alias_of(identity(), named) == ALIAS


@pytest.mark.parametrize("settings", [{}, {"role_alias": "gateways"}, {"credentials_endpoint": "localhost"}])
def test_what_is_not_known_is_said(settings: dict[str, Any], tmp_path: Path) -> None:
    """And which command asks the backend for it."""
    with pytest.raises(RoleAliasMissingError) as missing:
        credentials.alias_of(identity(), Settings(tmp_path, **settings))
    assert "hsm-enroll recover" in missing.value.hint
