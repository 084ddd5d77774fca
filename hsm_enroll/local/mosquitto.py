"""mosquitto as a child process: TLS from 1.2 on, client certificates required, gone when this process is gone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.control import CLIENT_ID, ControlConnection
from hsm_enroll.local.home import Home, write

_TIME_LIMIT = 10.0  # seconds, for whatever mosquitto does in milliseconds
_PORT_ATTEMPTS = 5
_ADMINISTRATION_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # Debian's place for mosquitto; not on every user's PATH
_NOISE = (f" PINGREQ from {CLIENT_ID}".encode(), f" PINGRESP to {CLIENT_ID}".encode())

# Paths are relative to the home, which is mosquitto's working directory: it has no way to quote them.
_CONFIGURATION = """\
{user}per_listener_settings false
allow_anonymous false
acl_file acl
persistence false
# On AWS a retained message needs iot:RetainPublish, which no policy that policy.py translates can give.
retain_available false
log_dest stderr
log_type all
log_timestamp_format %Y-%m-%dT%H:%M:%S%z

# Devices. A client's id is its certificate's CN, as the policy demands; one that asks for another gets this one.
listener {device_port} 127.0.0.1
{tls}crlfile device-crl.pem
use_username_as_clientid true

# The observer, as many connections as it likes. Every device certificate stands in this CRL.
listener {observer_port} 127.0.0.1
{tls}crlfile observer-crl.pem
"""
_TLS = """\
cafile ca.pem
certfile server.pem
keyfile server.key
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
"""


class Mosquitto:
    """The broker of one home, whose certificates, CRLs and ACL are already written.

    A context manager: runs from entering to leaving.

    Attributes:
        device_port: MQTT for devices, on 127.0.0.1.
        observer_port: MQTT for the observer.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._log = home.logs / "mosquitto.log"

    def __enter__(self) -> Self:
        """Start on free ports.

        Raises:
            LocalCloudError: mosquitto is not installed, or does not start.
        """
        command = _command()
        for _ in range(_PORT_ATTEMPTS):
            if self._start(command):
                return self
        raise self._failure("found no free port")

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._control.close()
        self._end()

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when mosquitto ends (pidfd_open(2))."""
        return self._exit

    def reload(self) -> None:
        """Have CRLs and ACL read again; connections made from now on, and messages, meet the new ones.

        Open connections stay open, also of a certificate that now stands in the CRL: see `evict`.

        Raises:
            LocalCloudError: mosquitto does not do it.
        """
        # mosquitto notices the signal when its loop wakes up, which the first round trip brings about, and reloads
        # before the loop's next turn, which is when it answers the second. A further signal in between would be lost.
        self._process.send_signal(signal.SIGHUP)
        self._control.round_trip()
        self._control.round_trip()
        try:
            self._reloads.get(timeout=_TIME_LIMIT)
        except Empty as error:
            raise self._failure("did not read its files again") from error

    def evict(self, client_id: str) -> None:
        """Return once whoever was connected under this id no longer is.

        Raises:
            LocalCloudError: mosquitto does not do it.
        """
        ControlConnection(self._home, self.observer_port, client_id).close()

    def _start(self, command: list[str]) -> bool:
        """Start once; False when a port was taken meanwhile."""
        self.device_port, self.observer_port = _free_ports()
        user = "user root\n" if os.geteuid() == 0 else ""  # else it gives up the right to read the home
        configuration = _CONFIGURATION.format(
            user=user, tls=_TLS, device_port=self.device_port, observer_port=self.observer_port
        )
        write(self._home.mosquitto_configuration, configuration.encode())

        self._reloads: SimpleQueue[bytes] = SimpleQueue()
        self._running: Future[bool] = Future()
        started: Future[subprocess.Popen[bytes]] = Future()
        self._thread = threading.Thread(target=self._attend, args=(command, started), name="mosquitto", daemon=True)
        self._thread.start()
        try:
            self._process = started.result()
        except OSError as error:
            raise self._failure("cannot be started") from error
        with ExitStack() as undo:
            undo.callback(self._end)
            try:
                free = self._running.result(_TIME_LIMIT)
            except TimeoutError as error:
                raise self._failure("does not start") from error
            if free:
                self._control = ControlConnection(self._home, self.observer_port, CLIENT_ID)
                undo.pop_all()
        return free

    def _attend(self, command: list[str], started: Future[subprocess.Popen[bytes]]) -> None:
        """Start mosquitto and read its log to the end, in one thread.

        PR_SET_PDEATHSIG fires when the thread that started the child ends, not the process (prctl(2)). This one ends
        after mosquitto, or with the process.
        """
        try:
            process = subprocess.Popen(
                command,
                cwd=self._home.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C on a terminal is the supervisor's alone to answer
            )
        except OSError as error:
            started.set_exception(error)
            return
        self._exit = os.pidfd_open(process.pid)
        started.set_result(process)
        taken = False
        with process, self._log.open("ab", buffering=0) as log:
            assert process.stderr is not None  # noqa: S101 - it is a pipe
            for line in process.stderr:
                text = line.rstrip()
                if text.endswith(_NOISE):
                    continue
                log.write(line)
                taken = taken or text.endswith(b"Address already in use")
                if text.endswith(b"Reloading config."):
                    self._reloads.put(text)
                if text.endswith(b" running") and not self._running.done():
                    self._running.set_result(True)
        if not self._running.done() and taken:
            self._running.set_result(False)
        elif not self._running.done():
            self._running.set_exception(self._failure(f"ended with status {process.returncode}"))

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_TIME_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join()
        os.close(self._exit)

    def _failure(self, what: str) -> LocalCloudError:
        return LocalCloudError(f"mosquitto {what}; see {self._log}.")


def _command() -> list[str]:
    mosquitto = _found("mosquitto", package="mosquitto")
    setpriv = _found("setpriv", package="util-linux")
    return [setpriv, "--pdeathsig", "KILL", mosquitto, "-c", "mosquitto.conf"]


def _found(program: str, *, package: str) -> str:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), _ADMINISTRATION_PATH))
    found = shutil.which(program, path=path)
    if found is None:
        raise LocalCloudError(f"{program} is not installed.", hint=f"Install it; on Debian: apt-get install {package}")
    return str(Path(found).absolute())


def _free_ports() -> tuple[int, int]:
    """Return two loopback ports nobody listens on: mosquitto takes neither sockets nor the port 0."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
