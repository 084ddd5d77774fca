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
from hsm_enroll.local.endpoints import Endpoints
from hsm_enroll.local.home import Home

_STOP_LIMIT = 30.0  # seconds
_IMPORT_ROOT = Path(__file__).parents[2]


def detach(home: Path, timeout: float, auth: str = "open") -> Endpoints:
    """Start a local cloud in a background process that outlives this one, and return once it is up.

    Args:
        home: its folder; its output goes to ``logs/supervisor.log`` there.
        timeout: seconds that the start may take; the first start on a machine takes the longest.
        auth: who may enroll, ``invite`` or ``open``, see `LocalCloud`.

    Raises:
        LocalCloudError: it did not start, or not in time. Its process has been ended.
    """
    cloud_home = Home(home.absolute())
    cloud_home.prepare()
    log = cloud_home.logs / "supervisor.log"
    with ExitStack() as undo:
        process, announcement = _spawn(cloud_home, log, auth)
        undo.callback(_terminate, process)
        with announcement:
            text = _read_all(announcement, time.monotonic() + timeout)
        if text is None:
            raise LocalCloudError(f"The local cloud was not up after {timeout:g} seconds; see {log}.")
        if not text:
            raise LocalCloudError(f"The local cloud's process ended before it was up; see {log}.")
        message = json.loads(text)
        if "error" in message:
            raise LocalCloudError(f"{message['error']['message']} Its log: {log}", hint=message["error"]["hint"])
        undo.pop_all()
    # Reaps the process if it ends before this one.
    threading.Thread(target=process.wait, daemon=True).start()
    return Endpoints.from_json(message["endpoints"])


def running(home: Path) -> Endpoints:
    """Return where the local cloud in this folder listens.

    Raises:
        LocalCloudError: no local cloud is running there.
    """
    endpoints = Home(home.absolute()).read_state()
    if endpoints is None:
        raise LocalCloudError(f"No local cloud is running in {home}.", hint="Start one: hsm-enroll local up --detach")
    return endpoints


def down(home: Path) -> None:
    """Stop the local cloud in this folder, and return once its process has ended; do nothing if none is running.

    Raises:
        LocalCloudError: the process does not end in time.
    """
    cloud_home = Home(home.absolute())
    pid = cloud_home.holder()
    if pid is None:
        return
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


def _spawn(cloud_home: Home, log: Path, auth: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    announcement = os.fdopen(reading, "rb", buffering=0)
    with os.fdopen(writing, "wb"), log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "hsm_enroll.local", str(cloud_home.folder), str(writing), auth],
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
