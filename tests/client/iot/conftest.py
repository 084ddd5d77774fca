"""A token with keys of every type, a CA that certified them, and a broker that trusts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.store.identity import Identity
from tests.support import broker as mosquitto
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.identities import identity as an_identity
from tests.support.softhsm import MODULE, SoftHsm

ROOT = Path(__file__).parents[3]
_KEY_TYPES = [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that certifies the devices and the broker."""
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA that certifies nobody here."""
    return Authority(tmp_path_factory.mktemp("authority") / "ca", "another CA")


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    """Tokens "gateway" and, twice, "twin"."""
    softhsm = SoftHsm(tmp_path_factory.mktemp("softhsm"))
    for label in ("gateway", "twin", "twin"):
        softhsm.add_token(label)
    return softhsm


@pytest.fixture(scope="session")
def identities(softhsm: SoftHsm, authority: Authority) -> dict[KeyType, Identity]:
    """A device per key type, its key generated in the token; the port is none that anything listens on."""
    return {
        key_type: _enrolled(softhsm, authority, f"press-{key_type}", key_type, bytes((index,)))
        for index, key_type in enumerate(_KEY_TYPES, start=1)
    }


@pytest.fixture
def identity(identities: dict[KeyType, Identity]) -> Identity:
    """The device with the default key type."""
    return identities[KeyType.EC_P256]


@pytest.fixture
def broker(tmp_path: Path, authority: Authority) -> Iterator[Broker]:
    """mosquitto that lets an identity use certtest/IDENTITY and device/IDENTITY/#, under whatever client id."""
    with mosquitto.running(tmp_path / "mosquitto", authority) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have child processes find the tokens, and this project where it is not installed."""
    for name, value in softhsm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def _enrolled(softhsm: SoftHsm, authority: Authority, thing: str, key_type: KeyType, key_id: bytes) -> Identity:
    spki = softhsm.create_key("gateway", thing, key_type, key_id)
    return an_identity(
        thing_name=thing,
        certificate_pem=authority.issue_client(spki, thing).public_bytes(Encoding.PEM).decode(),
        token=TokenName(MODULE, "gateway", "", "SoftHSM project", "SoftHSM v2"),
        key_label=thing,
        key_id=key_id,
        key_type=key_type,
        mqtt_endpoint="localhost",
        mqtt_port=mosquitto.free_port(),
    )
