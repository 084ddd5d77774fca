"""The cloud in the gateway's own machine, and a recorder of what arrives there: services beside the package's.

It is this checkout's ``hsm-enroll local up``, with the Python packages of its ``.venv``; both are mounted read-only.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from booted.machine import Machine

_CHECKOUT = Path(__file__).resolve().parents[2]
_THERE = "/opt/cloud"
_HOME = "/var/lib/cloud"
_COMMAND = f"/usr/bin/env PYTHONPATH={_THERE}/checkout:{_THERE}/packages /usr/bin/python3 -m hsm_enroll"

MOUNTS: Mapping[str, Path] = {
    f"{_THERE}/checkout": _CHECKOUT,
    f"{_THERE}/packages": Path(sysconfig.get_path("purelib")),
}
"""What the machine has to be given."""

_CLOUD = f"""\
[Unit]
Description=A cloud on this machine

[Service]
ExecStart={_COMMAND} local up --keep --auth invite --home {_HOME}

[Install]
WantedBy=multi-user.target
"""
# Its session is the broker's to keep: what arrives while it is not connected, it gets later.
_RECORDER = f"""\
[Unit]
Description=Writes down what arrives in the cloud
After=cloud.service
StartLimitIntervalSec=0

[Service]
ExecStart=/bin/sh -c 'exec mosquitto_sub -c -i recorder -q 1 -t device/# -F "%%t %%p" \\
  -h localhost -p $(cat port) --cafile ca.pem --cert observer.pem --key observer.key'
WorkingDirectory={_HOME}
StandardOutput=append:/var/lib/recorded
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


class Cloud:
    """The cloud in a machine, which has Python.

    Attributes:
        environment: what the operator's commands need to find it.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        units = machine.root / "etc/systemd/system"
        (units / "cloud.service").write_text(_CLOUD)
        (units / "recorder.service").write_text(_RECORDER)
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "enable", "--quiet", "--now", "cloud.service")
        self.environment: dict[str, str] = machine.wait_for("the cloud", self._env)
        (machine.root / _HOME[1:] / "port").write_text(self.environment["HSM_ENROLL_MQTT_PORT"])
        machine.run("systemctl", "enable", "--quiet", "--now", "recorder.service")
        machine.wait_for("the recorder", self._has_recorder)

    def ca(self) -> str:
        """Return the certificate of its authority, in PEM."""
        return (self._machine.root / _HOME[1:] / "ca.pem").read_text()

    def operate(self, *command: str) -> str:
        """Run a command of the operator's, and return what it prints."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return self._machine.run("env", *variables, *_COMMAND.split(), *command)

    def active_certificates(self, thing: str) -> list[str]:
        """Return the ids of a Thing's certificates that the broker accepts."""
        shown = json.loads(self.operate("fleet", "show", thing, "--json"))
        return [each["certificateId"] for each in shown["certificates"] if each["active"]]

    def stop(self) -> None:
        """Take the whole cloud down, so that there is no link to it."""
        self._machine.run("systemctl", "stop", "cloud.service")

    def recorded(self, topic: str) -> list[str]:
        """Return the messages that have arrived for a topic, in their order."""
        lines = (self._machine.root / "var/lib/recorded").read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{topic} ")]

    def _env(self) -> dict[str, str] | None:
        if not (self._machine.root / _HOME[1:] / "cloud.json").exists():
            return None
        found: dict[str, str] = json.loads(
            self._machine.run(*_COMMAND.split(), "local", "env", "--json", "--home", _HOME)
        )
        return found

    def _has_recorder(self) -> bool:
        log = self._machine.root / _HOME[1:] / "logs/mosquitto.log"
        return "recorder" in log.read_text()
