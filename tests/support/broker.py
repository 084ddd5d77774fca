"""mosquitto with TLS and required client certificates, and mosquitto_sub as an independent observer."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.authority import Authority, Pair

_TIME_LIMIT = 15.0


class Log:
    """The lines a process writes, read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def wait_for(self, text: str) -> str:
        """Return the first line that holds the text, as soon as it is there."""
        with self._changed:
            found = self._changed.wait_for(lambda: [line for line in self._lines if text in line], _TIME_LIMIT)
            assert found, f"{text!r} did not come; there is:\n" + "\n".join(self._lines)
            return found[0]

    def end(self) -> None:
        """Kill the process and read what is left; mosquitto misses a SIGTERM that comes right after its start."""
        self._process.kill()
        self._process.wait(_TIME_LIMIT)
        self._thread.join(_TIME_LIMIT)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()


@dataclass(frozen=True)
class Neighbour:
    """Another identity, with a software key, and other programs that use it."""

    port: int
    ca_file: Path
    pair: Pair

    def publish(self, topic: str, payload: str, *, client_id: str = "sender") -> None:
        """Publish with mosquitto_pub, QoS 1; whoever has the client id is thrown out."""
        command = ["mosquitto_pub", *self._options(client_id), "-t", topic, "-m", payload]
        subprocess.run(command, check=True, timeout=_TIME_LIMIT)

    def subscribe(self, topic: str) -> subprocess.Popen[str]:
        """Start mosquitto_sub; it writes lines of topic and payload, the latter in hexadecimal."""
        command = ["mosquitto_sub", *self._options("observer"), "-t", topic, "-F", "%t %x"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def _options(self, client_id: str) -> list[str]:
        return [
            *("-h", "localhost", "-p", str(self.port), "-i", client_id, "-q", "1", "--cafile", str(self.ca_file)),
            *("--cert", str(self.pair.certificate), "--key", str(self.pair.key)),
        ]


@dataclass(frozen=True)
class Broker:
    """A running mosquitto; ``log`` is what it says."""

    port: int
    log: Log
    neighbour: Neighbour

    @contextmanager
    def observed(self, topic: str) -> Iterator[Log]:
        """Subscribe with another program under another identity; the lines it writes are yielded."""
        log = Log(self.neighbour.subscribe(topic))
        try:
            self.log.wait_for("Sending SUBACK to observer")
            yield log
        finally:
            log.end()


@contextmanager
def running(
    folder: Path,
    authority: Authority,
    *,
    server: Pair | None = None,
    crl: Path | None = None,
    acl: str = "pattern readwrite certtest/%u\npattern readwrite device/%u/#",
    lines: tuple[str, ...] = (),
) -> Iterator[Broker]:
    """Run mosquitto on a free loopback port until the block ends."""
    folder.mkdir()
    server = server or authority.issue_pair("server", ["localhost", "127.0.0.1", "::1"])
    neighbour = authority.issue_pair("neighbour")
    acl_file = folder / "acl"
    acl_file.write_text(f"user neighbour\ntopic readwrite #\n\n{acl}\n")
    acl_file.chmod(0o600)
    port = free_port()
    configuration = folder / "mosquitto.conf"
    configuration.write_text(
        "\n".join(
            (
                f"user {pwd.getpwuid(os.geteuid()).pw_name}",
                "per_listener_settings false",
                f"listener {port} localhost",
                f"cafile {authority.certificate}",
                f"certfile {server.certificate}",
                f"keyfile {server.key}",
                "require_certificate true",
                "use_identity_as_username true",
                "log_dest stderr",
                "log_type all",
                f"acl_file {acl_file}",
                *((f"crlfile {crl}",) if crl else ()),
                *lines,
                "",
            )
        )
    )
    process = subprocess.Popen(
        ["mosquitto", "-c", str(configuration)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    log = Log(process)
    try:
        log.wait_for(" running")
        yield Broker(port, log, Neighbour(port, authority.certificate, neighbour))
    finally:
        log.end()


def free_port() -> int:
    """Return a loopback TCP port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
