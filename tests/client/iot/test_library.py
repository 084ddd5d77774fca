"""The library's connect on an enrolled device, with its configuration and environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsm_enroll import ConnectionState, Identity, PinMissingError, Secret, TokenName, UsageError, connect
from tests.client.iot import cryptoki
from tests.client.iot.apart import apart
from tests.client.iot.device import EnrolledDevice, enrolled_device
from tests.client.iot.events import Events
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.cable import cable
from tests.support.softhsm import PIN, SoftHsm


@pytest.fixture
def device(
    identity: Identity, broker: Broker, authority: Authority, softhsm: SoftHsm, tmp_path: Path
) -> EnrolledDevice:
    """An enrolled device whose broker is there."""
    return enrolled_device(identity, broker.port, authority, softhsm, tmp_path)


def test_a_second_login_is_prepared_like_the_first(device: EnrolledDevice) -> None:
    """D1: after the token has lost its login the PIN's source is asked again, with the token; a worker looked first."""
    del device.extra["HSM_ENROLL_PIN"]
    asked, logins, states = apart(_logged_out, device.environment, device.home)
    assert asked == [device.identity.token, device.identity.token]
    assert logins == [cryptoki.CKR_OK] * 2
    assert (states[:2], states[-1]) == (["connected", "lost"], "resumed")


def _logged_out(environment: dict[str, str], home: Path) -> tuple[list[TokenName], list[int], list[str]]:
    os.environ.clear()
    os.environ.update(environment)
    logins, events, asked = cryptoki.answers("C_Login"), Events(), list[TokenName]()

    def pin(token: TokenName) -> Secret:
        asked.append(token)
        return PIN

    identity = Identity.load(home)
    with pytest.raises(PinMissingError):
        connect(identity)
    with cable(int(environment["HSM_ENROLL_MQTT_PORT"])) as laid:
        os.environ["HSM_ENROLL_MQTT_PORT"] = str(laid.port)
        with connect(identity, pin=pin, reconnect=True, on_connection=events) as connection:
            cryptoki.log_out()
            laid.cut()
            events.wait_for(ConnectionState.RESUMED)
            connection.publish(f"device/{identity.thing_name}/x", b"x")
    return asked, logins, events.states


def test_a_programs_purpose_is_in_its_client_id(device: EnrolledDevice, broker: Broker) -> None:
    """D26: with a purpose a program has a client id of its own; without, the Thing's name."""
    apart(_connect_twice, device.environment, device.home)
    broker.log.wait_for(f" as {device.thing}/logger-")
    broker.log.wait_for(f" as {device.thing} ")


@pytest.mark.parametrize("purpose", ["", "a/b", "a b", "#", "é", "x" * 33])
def test_a_purpose_is_one_short_word(identity: Identity, purpose: str) -> None:
    """D26: another one might be refused, or not fit, and the Thing's name would end other programs' connections."""
    with pytest.raises(UsageError, match="not a valid purpose"):
        connect(identity, purpose=purpose)


def _connect_twice(environment: dict[str, str], home: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    identity = Identity.load(home)
    with connect(identity) as program, connect(identity, purpose="logger") as logger:
        for connection in (program, logger):
            connection.publish(f"device/{identity.thing_name}/x", b"x")
