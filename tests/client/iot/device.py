"""A device that is enrolled, for the commands that speak MQTT."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hsm_enroll.store.identity import Identity
from hsm_enroll.token.tokens import Tokens
from tests.support.authority import Authority
from tests.support.devices import Machine
from tests.support.softhsm import MODULE, SoftHsm


@dataclasses.dataclass
class EnrolledDevice(Machine):
    """A device whose identity is where the commands look for it, and whose PIN is in the environment."""

    identity: Identity = dataclasses.field(kw_only=True)

    @property
    def thing(self) -> str:
        """Its Thing's name."""
        return self.identity.thing_name

    def with_environment(self, **variables: str) -> EnrolledDevice:
        """Return the same device with more of an environment."""
        return dataclasses.replace(self, extra={**self.extra, **variables})

    def at(self, port: int) -> EnrolledDevice:
        """Return the same device with its broker elsewhere."""
        return self.with_environment(HSM_ENROLL_MQTT_PORT=str(port))


def enrolled_device(
    identity: Identity, port: int, authority: Authority, softhsm: SoftHsm, folder: Path
) -> EnrolledDevice:
    """Give a device an identity whose key is in a SoftHSM, and a broker at a port of this machine."""
    with Tokens() as tokens:
        [token] = [report.name for report in tokens.listed(MODULE) if report.name.label == "gateway"]
    known = {"HSM_ENROLL_CA_FILE": str(authority.certificate), "HSM_ENROLL_MQTT_PORT": str(port)}
    device = EnrolledDevice(
        folder,
        known,
        {**softhsm.environment, "HSM_ENROLL_PIN": softhsm.pin.reveal()},
        identity=dataclasses.replace(identity, token=token),
    )
    device.home.mkdir(mode=0o700, parents=True)
    device.identity.save(device.home)
    return device
