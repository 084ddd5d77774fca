"""``hsm-enroll`` in a process of its own, run to its end."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

COMMAND = (sys.executable, "-m", "hsm_enroll")

# Variables that this project, its libraries and the modules read when they are used. Others may be read at the start
# of an interpreter, or by the dynamic linker, and only a new interpreter obeys those.
_READ_LATE = (
    "AWS_", "DBUS_", "HOME", "HSM_ENROLL_", "NO_PROXY", "PATH", "SOFTHSM2_CONF", "TPM2TOOLS_", "TPM2_", "no_proxy"
)  # fmt: skip
_ROOT = Path(__file__).parents[2]
_MESSAGE_BYTES = 32
_STREAMS = 3


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: str = "",
    prefix: Sequence[str] = (),
    time_limit: float,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end: in a fork of a loaded interpreter, unless the environment asks for one of its own.

    Args:
        arguments: the command's.
        environment: the whole of it.
        stdin: what it reads.
        prefix: a command that is to run it.
        time_limit: in seconds.

    Raises:
        subprocess.TimeoutExpired: it has not ended in time, and was killed.
    """
    command = [*prefix, *COMMAND, *arguments]
    if prefix or not all(name.startswith(_READ_LATE) for name in environment):
        return subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, timeout=time_limit, check=False
        )
    (reads, feeds), (says, output), (complains, errors) = os.pipe(), os.pipe(), os.pipe()
    told, tells = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asked = {"arguments": [*arguments], "environment": {**environment}, "folder": str(Path.cwd())}
    passed = [reads, output, errors, tells.detach()]
    try:
        socket.send_fds(_fork_server(), [json.dumps(asked).encode()], passed)
    finally:
        for descriptor in passed:
            os.close(descriptor)
    with told, ThreadPoolExecutor(_STREAMS) as pool:
        pool.submit(_feed, feeds, stdin)
        shown = [pool.submit(_all_of, descriptor) for descriptor in (says, complains)]
        process = int(told.recv(_MESSAGE_BYTES))
        told.settimeout(time_limit)
        try:
            status = int(told.recv(_MESSAGE_BYTES))
        except TimeoutError as error:
            os.kill(process, signal.SIGKILL)
            raise subprocess.TimeoutExpired(command, time_limit) from error
        return subprocess.CompletedProcess(command, status, *(each.result() for each in shown))


def _feed(descriptor: int, text: str) -> None:
    # As subprocess does: a command need not read what it is given.
    with suppress(BrokenPipeError), open(descriptor, "w") as pipe:
        pipe.write(text)


def _all_of(descriptor: int) -> str:
    with open(descriptor) as pipe:
        return pipe.read()


@cache
def _fork_server() -> socket.socket:
    """Start it; it ends when this process has closed the socket, or is gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Python finds out at the start of an interpreter what kind of files its streams are: for a command they are pipes.
    reads, writes = os.pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
            # As a command's: nothing of this process's own but PATH.
            env={"PATH": os.environ["PATH"]}, cwd=_ROOT, pass_fds=[theirs.fileno()],
            stdin=reads, stdout=writes, stderr=writes,
        )  # fmt: skip
    os.close(writes)
    if not ours.recv(_MESSAGE_BYTES):
        raise AssertionError(_all_of(reads))
    os.close(reads)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
