"""mosquitto as a child process, which ends with this one: it delivers the messages, and `gate` authorizes them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.home import Home, write

_TIME_LIMIT = 10.0  # seconds to start or to stop, which usually takes milliseconds
_TERMINATIONS = 10
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian has mosquitto; not on every user's PATH

# Paths are relative to the home, which is mosquitto's working directory: its configuration has no way to quote paths,
# and a socket's path has at most 107 bytes (unix(7)).
_SOCKET = "broker.socket"
_CONFIGURATION = f"""\
per_listener_settings false
allow_anonymous true
persistence false
log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
log_timestamp_format %Y-%m-%dT%H:%M:%S%z
listener 0 {_SOCKET}
"""


class Mosquitto:
    """The broker of a local cloud. It runs while it is entered, and listens on a Unix socket in the cloud's home.

    It does not authorize anything: whoever can open the socket may publish and subscribe to everything.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._log = home.logs / "mosquitto.log"

    def __enter__(self) -> Self:
        """Start mosquitto, and return once it is running.

        Raises:
            LocalCloudError: mosquitto is not installed, or does not start.
        """
        # Started by root, mosquitto would otherwise switch to a user who cannot write to the home.
        user = "user root\n" if os.geteuid() == 0 else ""
        write(self._home.mosquitto_configuration, (user + _CONFIGURATION).encode())
        self._running: Future[None] = Future()
        started: Future[subprocess.Popen[bytes]] = Future()
        self._thread = threading.Thread(target=self._run, args=(_command(), started), name="mosquitto", daemon=True)
        self._thread.start()
        try:
            self._process = started.result()
        except OSError as error:
            raise self._failure("cannot be started") from error
        try:
            self._running.result(_TIME_LIMIT)
        except TimeoutError as error:
            self._end()
            raise self._failure("does not start") from error
        except LocalCloudError:
            self._end()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._end()

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when mosquitto ends (pidfd_open(2))."""
        return self._exit

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the broker, in the running event loop.

        Raises:
            OSError: mosquitto has ended.
        """
        folder = os.open(self._home.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{_SOCKET}")
        finally:
            os.close(folder)

    def _run(self, command: list[str], started: Future[subprocess.Popen[bytes]]) -> None:
        """Start mosquitto, and copy its log until it ends; runs in a thread of its own.

        PR_SET_PDEATHSIG kills mosquitto when the thread that started it ends, not when the process does (prctl(2)).
        This thread ends after mosquitto, or with the process.
        """
        try:
            process = subprocess.Popen(
                command,
                cwd=self._home.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that only this process gets the SIGINT of Ctrl-C
            )
        except OSError as error:
            started.set_exception(error)
            return
        self._exit = os.pidfd_open(process.pid)
        started.set_result(process)
        with process, self._log.open("ab", buffering=0) as log:
            assert process.stderr is not None  # noqa: S101 - it is a pipe
            for line in process.stderr:
                log.write(line)
                if line.rstrip().endswith(b" running") and not self._running.done():
                    self._running.set_result(None)
        if not self._running.done():
            self._running.set_exception(self._failure(f"ended with status {process.returncode}"))

    def _end(self) -> None:
        # mosquitto 2.0 loses a SIGTERM that arrives between its log line "running" and its main loop.
        for _ in range(_TERMINATIONS):
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_TIME_LIMIT / _TERMINATIONS)
                break
        else:
            self._process.kill()
        self._thread.join()
        os.close(self._exit)

    def _failure(self, what: str) -> LocalCloudError:
        return LocalCloudError(f"mosquitto {what}; see {self._log}.")


def _command() -> list[str]:
    mosquitto = _find_program("mosquitto", package="mosquitto")
    setpriv = _find_program("setpriv", package="util-linux")
    return [setpriv, "--pdeathsig", "KILL", mosquitto, "-c", "mosquitto.conf"]


def _find_program(program: str, *, package: str) -> str:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), SYSTEM_PATH))
    found = shutil.which(program, path=path)
    if found is None:
        raise LocalCloudError(f"{program} is not installed.", hint=f"Install it; on Debian: apt-get install {package}")
    return str(Path(found).absolute())
