"""What a technician and programs do on a gateway whose hsm-enroll is the package's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from booted.machine import Machine
from tests.support.pages import page

FORWARD = "hsm-enroll-forward.service"
RENEW = "hsm-enroll-renew.service"
TIMER = "hsm-enroll-renew.timer"
_PIN = "/var/lib/hsm-enroll/pin"
_PROGRAM = """\
import sys, time
sys.path.insert(0, "/usr/lib/hsm-enroll")
from hsm_enroll import Identity, Publisher
with Publisher(Identity.load()) as publisher:
    for number in range(int(sys.argv[2])):
        publisher.publish(sys.argv[1], str(number).encode())
        print(number, flush=True)
        time.sleep(float(sys.argv[3]))
"""


class Gateway:
    """An enrolled gateway, or one that is about to be."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def command(self, *arguments: str, given: str | None = None) -> Any:
        """Run hsm-enroll as root, and return its JSON document."""
        return json.loads(self._machine.run("hsm-enroll", *arguments, "--json", given=given))

    def trust(self, authority: str) -> None:
        """Configure a certificate authority, in PEM."""
        folder = self._machine.root / "etc/hsm-enroll"
        folder.mkdir()
        (folder / "ca.pem").write_text(authority)
        self.configure('ca_file = "/etc/hsm-enroll/ca.pem"')

    def configure(self, line: str) -> None:
        """Add a line to the configuration."""
        with (self._machine.root / "etc/hsm-enroll/config.toml").open("a") as file:
            file.write(f"{line}\n")

    def enroll(self, invite: str) -> str:
        """Make a token, enroll, install the services, encrypt the PIN for them as the page says, and return it."""
        self.command("token", "create", "--label", "gateway")
        self.command("init", "-", given=invite)
        self.command("service", "install")
        self._machine.run("sh", "-e", "-c", block("sh", "systemd-creds encrypt"))
        pin = self._machine.run("cat", _PIN).strip()
        self._machine.run("rm", _PIN)
        self._machine.run("systemctl", "restart", FORWARD)
        return pin

    @contextmanager
    def drop_in(self, unit: str, content: str) -> Iterator[None]:
        """Give a unit an administrator's own drop-in, for a while, and restart it."""
        file = self._machine.root / "etc/systemd/system" / f"{unit}.d/override.conf"
        was_there = file.parent.exists()
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        self._machine.run("systemctl", "daemon-reload")
        self._machine.run("systemctl", "restart", unit)
        yield
        file.unlink()
        if not was_there:
            file.parent.rmdir()
        self._machine.run("systemctl", "daemon-reload")
        self._machine.run("systemctl", "restart", unit)

    def wait_until_connected(self) -> None:
        """Return once the service is connected to the broker."""
        self._machine.wait_for("a connection", lambda: "connected since" in self.service("StatusText"))

    def service(self, attribute: str) -> str:
        """Return what systemd says of the service that sends."""
        return self._machine.run("systemctl", "show", "--value", f"--property={attribute}", FORWARD).strip()

    def certificate(self) -> str:
        """Return the id of the certificate that this device has."""
        document: dict[str, Any] = self.command("status")
        return str(document["certificate"]["id"])


class Writer:
    """A program on the gateway that hands over messages, which are numbers, and says which ones it was promised.

    Args:
        machine: the gateway.
        topic: their topic.
        count: how many; they begin with 0.
        pause: seconds between them.

    Attributes:
        topic: their topic.
        promised: how many calls have returned; their messages are the first ones.
    """

    def __init__(self, machine: Machine, topic: str, count: int, pause: float = 0) -> None:
        self.topic, self.promised = topic, 0
        self._process = machine.start("python3", "-c", _PROGRAM, topic, str(count), str(pause))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait(self) -> int:
        """Wait until it has ended, and return its exit status."""
        self._reader.join()
        return self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for _ in output:
                self.promised += 1


def block(language: str, words: str) -> str:
    """Return the one block of the technician's page that has these words."""
    (found,) = [each.text for each in page("docs/technician.md").blocks_of(language) if words in each.text]
    return found
