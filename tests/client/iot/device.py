"""A device as the commands that speak MQTT find it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from hsm_enroll import settings
from hsm_enroll.store.identity import Identity
from hsm_enroll.token.tokens import Tokens
from tests.client.iot.softhsm import MODULE, PIN
from tests.support import documents
from tests.support.authority import Authority

_TIME_LIMIT = 60.0


@dataclasses.dataclass(frozen=True)
class Device:
    """A device as the commands find it: its identity in a state folder, its PIN in the environment."""

    identity: Identity
    folder: Path
    environment: dict[str, str]

    @property
    def thing(self) -> str:
        return self.identity.thing_name

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``hsm-enroll``."""
        command = [sys.executable, "-m", "hsm_enroll", *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run ``hsm-enroll`` to its end; return its exit status, stdout and stderr, a ``--json`` document checked."""
        with self.start(*arguments) as process:
            output, errors = process.communicate(timeout=_TIME_LIMIT)
        if "--json" in arguments:
            documents.read(arguments, output)
        return process.returncode, output, errors

    def at(self, port: int) -> Device:
        """The same device with its broker elsewhere."""
        environment = {**self.environment, "HSM_ENROLL_MQTT_PORT": str(port)}
        return dataclasses.replace(self, environment=environment)

    def with_pin(self, pin: str) -> Device:
        """The same device with another PIN."""
        return dataclasses.replace(self, environment={**self.environment, "HSM_ENROLL_PIN": pin})


def enrolled_device(identity: Identity, port: int, authority: Authority, home: Path) -> Device:
    """Put an identity where the commands look for it, its broker at a port of this machine."""
    with Tokens() as tokens:
        [token] = [report.name for report in tokens.listed(MODULE) if report.name.label == "gateway"]
    identity = dataclasses.replace(identity, token=token)
    environment = {
        **os.environ,
        "HSM_ENROLL_HOME": str(home),
        "HSM_ENROLL_CA_FILE": str(authority.certificate),
        "HSM_ENROLL_MQTT_PORT": str(port),
        "HSM_ENROLL_PIN": PIN,
    }
    folder = settings.load(environment, {}).state
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    identity.save(folder)
    return Device(identity, folder, environment)
