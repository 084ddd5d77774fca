"""The forwarder with its key in a TPM that loses its power."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cable import cable
from tests.support.devices import Cloud, Observer
from tests.support.forwarders import RunningForwarder
from tests.support.tpm_device import TpmDevice
from tests.support.tpm_power import Supply, cut, powered_device

_COUNT = 5


@pytest.fixture
def powered(cloud: Cloud, tmp_path: Path) -> Iterator[tuple[TpmDevice, Supply]]:
    """A device with a token in a TPM, and the TPM's power."""
    with powered_device(cloud, tmp_path) as made:
        yield made


def test_d21_a_power_cut_of_the_tpm_in_the_signature_for_a_connection(
    powered: tuple[TpmDevice, Supply], cloud: Cloud, thing: str, observe: Callable[[str], Observer]
) -> None:
    """D21, D10: the forwarder goes on without the TPM, and sends all that waits, in order, when it has power again."""
    device, supply = powered
    device.json("init", "--thing", thing, "--no-publish")
    topic = f"device/{thing}/x"
    observer = observe(topic)
    with cable(cloud.document["mqttPort"]) as laid:
        device.extra["HSM_ENROLL_MQTT_PORT"] = str(laid.port)
        with RunningForwarder(device) as forwarder:
            forwarder.wait_for("connected")
            supply.set(None)
            laid.cut()
            forwarder.wait_for("connected", 2)
            names = supply.names.copy()
            supply.set(cut(names, names.index("Sign"), is_executed=True))
            laid.cut()
            assert supply.is_cut.wait(60.0)
            for number in range(_COUNT):
                assert device.run("publish", "--queue", topic, str(number)).returncode == 0
            forwarder.wait_for("failed")
            supply.off()
            supply.set(None)
            supply.on()
            forwarder.wait_for("connected", 3)
            assert [observer.message()[1] for _ in range(_COUNT)] == [str(number) for number in range(_COUNT)]
            assert forwarder.stop(signal.SIGTERM) == 143
    assert device.json("status")["outbox"]["messages"] == 0
