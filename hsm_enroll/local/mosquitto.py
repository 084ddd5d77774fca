"""mosquitto as a child process, which ends with this one: it delivers the messages, and `gate` authorizes them."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.home import Home, write

_TIME_LIMIT = 10.0  # seconds to start or to stop, which usually takes milliseconds
_TERMINATIONS = 10
_RESTARTS, _RESTARTS_SECONDS = 5, 60.0
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian has mosquitto; not on every user's PATH

# Paths are relative to the home, which is mosquitto's working directory: its configuration has no way to quote paths,
# and a socket's path has at most 107 bytes (unix(7)).
_SOCKET = "broker.socket"
_DATABASE, _KEPT_DATABASE = "mosquitto.db", "kept-mosquitto.db"  # its own, so that it survives clouds without --keep
_CONFIGURATION = f"""\
per_listener_settings false
allow_anonymous true
persistence true
persistence_file {{database}}
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

    If it ends by itself, it is started again, but not more often than five times a minute.

    It does not authorize anything: whoever can open the socket may publish and subscribe to everything.

    Args:
        home: the cloud's home.
        log: gets a line about each start after the first.
        keep: whether it starts with the retained messages and sessions of the last run with this argument.
    """

    def __init__(self, home: Home, log: logging.Logger, *, keep: bool = False) -> None:
        self._home = home
        self._log = log
        self._keep = keep
        self._output = home.logs / "mosquitto.log"

    def __enter__(self) -> Self:
        """Start mosquitto, and return once it is running.

        Raises:
            LocalCloudError: mosquitto is not installed, or does not start.
        """
        # Started by root, mosquitto would otherwise switch to a user who cannot write to the home.
        user = "user root\n" if os.geteuid() == 0 else ""
        database = _KEPT_DATABASE if self._keep else _DATABASE
        write(self._home.mosquitto_configuration, (user + _CONFIGURATION.format(database=database)).encode())
        (self._home.folder / _DATABASE).unlink(missing_ok=True)
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0  # that succeeded
        self._failure: LocalCloudError | None = None
        self._is_ending = self._is_restarting = False
        self._gave_up = os.eventfd(0)
        self._thread = threading.Thread(target=self._supervise, args=(_command(),), name="mosquitto", daemon=True)
        self._thread.start()
        try:
            self._wait_for_start(1)
        except LocalCloudError:
            self._end()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._end()

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when mosquitto has ended and is not started again."""
        return self._gave_up

    def restart(self) -> None:
        """End mosquitto, which closes all connections, and return once it is running again.

        Retained messages and sessions survive.

        Raises:
            LocalCloudError: it does not start.
        """
        with self._changed:
            next_start = self._starts + 1
            self._is_restarting = True
            process = self._process
        if process is not None:
            _terminate(process)
        self._wait_for_start(next_start)

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

    def _supervise(self, command: list[str]) -> None:
        """Run mosquitto again and again; runs in a thread of its own.

        PR_SET_PDEATHSIG kills mosquitto when the thread that started it ends, not when the process does (prctl(2)).
        This thread ends after mosquitto, or with the process.
        """
        recent: deque[float] = deque(maxlen=_RESTARTS)
        while True:
            before = self._starts
            what = self._run(command)
            now = time.monotonic()
            with self._changed:
                if self._is_ending:
                    return
                if self._is_restarting:
                    self._is_restarting = False
                    self._log.info("mosquitto is restarted")
                    continue
                is_too_often = len(recent) == _RESTARTS and now - recent[0] < _RESTARTS_SECONDS
                if self._starts == before or is_too_often:
                    self._failure = LocalCloudError(f"mosquitto {what}; see {self._output}.")
                    self._changed.notify_all()
                    os.eventfd_write(self._gave_up, 1)
                    return
            recent.append(now)
            self._log.warning("mosquitto %s, and is started again", what)

    def _run(self, command: list[str]) -> str:
        """Start mosquitto, copy its log until it ends, and return how it ended."""
        with self._changed:
            if self._is_ending:
                return "is not needed"
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
                return f"cannot be started: {error.strerror}"
            self._process = process
        with process, self._output.open("ab", buffering=0) as output:
            assert process.stderr is not None  # noqa: S101 - it is a pipe
            for line in process.stderr:
                output.write(line)
                if line.rstrip().endswith(b" running"):
                    with self._changed:
                        self._starts += 1
                        self._changed.notify_all()
        return f"ended with status {process.returncode}"

    def _wait_for_start(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._starts >= number or self._failure is not None, _TIME_LIMIT)
            if self._failure is not None:
                raise self._failure
            if self._starts < number:
                raise LocalCloudError(f"mosquitto does not start; see {self._output}.")

    def _end(self) -> None:
        with self._changed:
            self._is_ending = True
            process = self._process
        if process is not None:
            _terminate(process)
        self._thread.join()
        os.close(self._gave_up)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    # mosquitto 2.0 loses a SIGTERM that arrives between its log line "running" and its main loop.
    for _ in range(_TERMINATIONS):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_TIME_LIMIT / _TERMINATIONS)
            return
    process.kill()


def _command() -> list[str]:
    mosquitto = find_program("mosquitto", package="mosquitto")
    setpriv = find_program("setpriv", package="util-linux")
    return [setpriv, "--pdeathsig", "KILL", mosquitto, "-c", "mosquitto.conf"]


def find_program(program: str, *, package: str) -> str:
    """Return the absolute path of a program.

    Raises:
        LocalCloudError: it is not installed; the hint names Debian's package.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), SYSTEM_PATH))
    found = shutil.which(program, path=path)
    if found is None:
        raise LocalCloudError(f"{program} is not installed.", hint=f"Install it; on Debian: apt-get install {package}")
    return str(Path(found).absolute())
