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
# They may wait an hour: less than the machine has mostly run when the container on it starts, whose boots are not the
# machine's.
_PROGRAM = """\
import sys, time
sys.path.insert(0, "/usr/lib/hsm-enroll")
from hsm_enroll import Identity, Publisher
with Publisher(Identity.load()) as publisher:
    for number in range(int(sys.argv[2])):
        publisher.publish(sys.argv[1], str(number).encode(), expires_after=3600)
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

    def enroll(self, invite: str) -> None:
        """Make a token, enroll, and install the services, as root."""
        self.command("token", "create", "--label", "gateway")
        self.command("init", "-", given=invite)
        self.command("service", "install")

    def enroll_as_user(self, invite: str) -> None:
        """Do the same as the package's user, as the page says."""
        self._machine.answer("Invite", invite, "sh", "-e", "-c", block("sh", "sudo -u hsm-enroll"))

    def encrypt_pin(self) -> str:
        """Encrypt the PIN for the services as the page says, and return it; only they have it then."""
        self.run_block("systemd-creds encrypt")
        pin = self._machine.run("cat", _PIN).strip()
        self._machine.run("rm", _PIN)
        self._machine.run("systemctl", "restart", FORWARD)
        return pin

    def run_block(self, words: str) -> str:
        """Run the one block of the technician's page that has these words, and return what it prints."""
        return self._machine.run("sh", "-e", "-c", block("sh", words))

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

    def service(self, attribute: str, unit: str = FORWARD) -> str:
        """Return what systemd says of a service, by default the one that sends."""
        return self._machine.run("systemctl", "show", "--value", f"--property={attribute}", unit).strip()

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
        user: who runs it.

    Attributes:
        topic: their topic.
        promised: how many calls have returned; their messages are the first ones.
    """

    def __init__(self, machine: Machine, topic: str, count: int, pause: float = 0, user: str = "root") -> None:
        self.topic, self.promised = topic, 0
        program = ("python3", "-c", _PROGRAM, topic, str(count), str(pause))
        self._process = machine.start("runuser", "-u", user, "--", *program)
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


def block(language: str, words: str, name: str = "docs/technician.md") -> str:
    """Return the one block of a page, the technician's by default, that has these words."""
    (found,) = [each.text for each in page(name).blocks_of(language) if words in each.text]
    return found
