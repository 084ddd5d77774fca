"""A local cloud in a process of its own: starts it, finds it, stops it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.control import ask, restart_hint
from hsm_enroll.local.endpoints import Endpoints
from hsm_enroll.local.home import Home
from hsm_enroll.local.options import DEFAULTS, Options

_STOP_LIMIT = 30.0  # seconds
_IMPORT_ROOT = Path(__file__).parents[2]


def detach(home: Path, timeout: float, options: Options = DEFAULTS, *, ends_with_caller: bool = False) -> Endpoints:
    """Start a local cloud in a background process, and return once it is up.

    Args:
        home: its folder; its output goes to ``logs/supervisor.log`` there.
        timeout: seconds that the start may take; the first start on a machine takes the longest.
        options: who may enroll, which ports it has, and whether its state is kept.
        ends_with_caller: stop it when the calling thread ends, however that happens; otherwise it outlives this
            process.

    Raises:
        LocalCloudError: it did not start, or not in time. Its process has been ended.
    """
    cloud_home = Home(home.absolute())
    cloud_home.prepare()
    log = cloud_home.logs / "supervisor.log"
    with ExitStack() as undo:
        process, announcement = _spawn(cloud_home, log, options, _until_caller_ends() if ends_with_caller else [])
        undo.callback(_terminate, process)
        with announcement:
            text = _read_all(announcement, time.monotonic() + timeout)
        if text is None:
            raise LocalCloudError(f"The local cloud was not up after {timeout:g} seconds; see {log}.")
        if not text:
            raise LocalCloudError(f"The local cloud's process ended before it was up; see {log}.")
        message = json.loads(text)
        if "error" in message:
            reason = message["error"]["message"].removesuffix(".")
            raise LocalCloudError(f"{reason}. Its log: {log}", hint=message["error"]["hint"])
        undo.pop_all()
    # Reaps the process if it ends before this one.
    threading.Thread(target=process.wait, daemon=True).start()
    return Endpoints.from_json(message["endpoints"])


def running(home: Path) -> Endpoints:
    """Return where the local cloud in this folder listens.

    Raises:
        LocalCloudError: no local cloud is running there.
    """
    cloud_home = Home(home.absolute())
    endpoints = cloud_home.read_state()
    if endpoints is None:
        raise LocalCloudError(
            f"No local cloud is running in {home}.", hint=f"Start one: {cloud_home.command('up --detach')}"
        )
    return endpoints


def down(home: Path) -> None:
    """Stop the local cloud in this folder, and return once its process has ended; do nothing if none is running.

    Raises:
        LocalCloudError: the process does not end in time, or it has ended but its state, which is to be kept, is lost.
    """
    cloud_home = Home(home.absolute())
    pid = cloud_home.holder()
    if pid is None:
        return
    try:
        ask(cloud_home, "save")  # it is saved again at the end, but only here does somebody see an error
    finally:
        _stop(cloud_home, pid)


def _stop(cloud_home: Home, pid: int) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(process):
        # Checked again: if it had ended before `pidfd_open`, the number could belong to another process by then.
        if cloud_home.holder() != pid:
            return
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not _readable(process, time.monotonic() + _STOP_LIMIT):
            raise LocalCloudError(f"The local cloud's process {pid} does not end.", hint=f"End it: kill -9 {pid}")


def restart(home: Path, target: str) -> None:
    """Restart a part of the local cloud in this folder, and return once it is running again.

    Args:
        home: the cloud's folder.
        target: ``broker`` or ``api``.

    Raises:
        LocalCloudError: no local cloud is running there, or the part does not start.
    """
    _ask(home, "restart", target=target)


def fail(home: Path, fault: str, count: int) -> None:
    """Let something go wrong with the next requests to the enrollment API of the local cloud in this folder.

    Args:
        home: the cloud's folder.
        fault: a value of `faults.Fault`.
        count: number of requests.

    Raises:
        LocalCloudError: no local cloud is running there.
    """
    _ask(home, "fail", fault=fault, count=count)


def _ask(home: Path, command: str, **arguments: object) -> None:
    running(home)
    cloud_home = Home(home.absolute())
    if not ask(cloud_home, command, **arguments):
        raise LocalCloudError(f"The local cloud in {home} does not accept commands.", hint=restart_hint(cloud_home))


def _until_caller_ends() -> list[str]:
    from hsm_enroll.local.mosquitto import find_program

    return [find_program("setpriv", package="util-linux"), "--pdeathsig", "TERM"]


def _spawn(
    cloud_home: Home, log: Path, options: Options, prefix: list[str]
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    announcement = os.fdopen(reading, "rb", buffering=0)
    arguments = [str(cloud_home.folder), str(writing), json.dumps(options.to_json())]
    with os.fdopen(writing, "wb"), log.open("ab") as output:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "hsm_enroll.local", *arguments],
            # So that it imports this package, and nothing from the caller's working directory.
            cwd=_IMPORT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[writing],
            start_new_session=True,
        )
    return process, announcement


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_all(announcement: IO[bytes], deadline: float) -> bytes | None:
    """Return everything until the other end closes; None if the deadline passes before that."""
    text = b""
    while _readable(announcement.fileno(), deadline):
        chunk = announcement.read(65536)
        if not chunk:
            return text
        text += chunk
    return None


def _readable(descriptor: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
