"""A gateway that is enrolled, with a real token, and a broker that fails when it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_enroll.iot.window import MOST_MESSAGES
from hsm_enroll.key import KeyType, TokenName
from tests.client.iot.device import EnrolledDevice, enrolled_device
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.duplicates import Repeated, explained
from tests.support.identities import identity
from tests.support.recording import End, RecordingBroker, recording
from tests.support.small_disk import SmallDisk
from tests.support.softhsm import MODULE, SoftHsm
from tests.support.writers import Writer

_ROOT = Path(__file__).parents[2]
_THING = "gateway-17"
TOPICS = [f"device/{_THING}/{number}" for number in range(4)]


@dataclass(frozen=True)
class Gateway:
    """A device with its token and its broker."""

    device: EnrolledDevice
    broker: RecordingBroker
    softhsm: SoftHsm

    def with_environment(self, **variables: str) -> Gateway:
        """Return the same gateway with more of an environment."""
        return replace(self, device=self.device.with_environment(**variables))

    def on(self, disk: SmallDisk) -> Gateway:
        """Return the same gateway with its state folder on a disk."""
        device = self.device.with_environment(HSM_ENROLL_HOME=str(disk.home))
        return replace(self, device=replace(device, prefix=disk.prefix))

    def check(self, writers: Sequence[Writer]) -> list[Repeated]:
        """Check that all has arrived in order from the Thing, nothing is left, and each duplicate was in flight.

        Returns:
            What arrived more than once.
        """
        for writer in writers:
            writer.check(self.broker.payloads(writer.topic))
        # Some were killed before they had sent their CONNECT.
        assert {session.client_id for session in self.broker.sessions} - {None} == {_THING}
        outbox = self.device.json("status")["outbox"]
        counts = [outbox[name] for name in ("messages", "bytes", "refused", "dropped", "expired", "damagedFiles")]
        assert counts == [0, 0, 0, 0, 0, []]
        repeated = explained(self.broker.sessions)
        assert all(
            each.unacknowledged + each.acknowledged <= MOST_MESSAGES for each in repeated if each.end is End.FAILED
        )
        return repeated


@contextmanager
def gateway(folder: Path) -> Iterator[Gateway]:
    """Set up a gateway with short timeouts, and without a limit to how fast it sends."""
    # For three days, so that the device may be a day off.
    authority = Authority(folder / "ca", days=3)
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    softhsm = SoftHsm(folder / "softhsm")
    softhsm.add_token("gateway")
    with pytest.MonkeyPatch.context() as patch, recording(context) as broker:
        for name, value in softhsm.environment.items():
            patch.setenv(name, value)
        device = _enrolled(authority, softhsm, broker, folder)
        yield Gateway(device, broker, softhsm)


def _enrolled(authority: Authority, softhsm: SoftHsm, broker: RecordingBroker, folder: Path) -> EnrolledDevice:
    key = softhsm.create_key("gateway", "key", KeyType.EC_P256, b"\1")
    mine = identity(
        thing_name=_THING,
        certificate_pem=authority.issue_client(key, _THING).public_bytes(Encoding.PEM).decode(),
        token=TokenName(MODULE, "gateway", "", "SoftHSM project", "SoftHSM v2"),
        key_label="key",
        key_id=b"\1",
        key_type=KeyType.EC_P256,
        mqtt_endpoint="localhost",
        mqtt_port=broker.port,
    )
    return enrolled_device(mine, broker.port, authority, softhsm, folder).with_environment(
        PYTHONPATH=str(_ROOT),
        HSM_ENROLL_DRAINING_RATE="0",
        HSM_ENROLL_CONNECT_TIMEOUT="2",
        HSM_ENROLL_OPERATION_TIMEOUT="2",
    )
