"""The programs these tests need: found, or the run fails; run to their end, or kept for a while and then ended.

Programs that tests start import this too: it does without pytest, which takes longer to load than they take.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hsm_enroll.secret import Secret

# Debian keeps daemons where a plain user's PATH does not look.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# A fixture's program that takes longer than this, in seconds, is taken to hang. On a busy machine, programs that take
# turns may need most of it.
_PATIENCE = 90.0


def program(name: str, *, package: str) -> str:
    """Return the path of a program; fail the run, naming its Debian package, where it is missing."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise AssertionError(f"the token tests need {name}, from the Debian package {package}")
    return path


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed, stderr included; fail the test if it fails."""
    done = subprocess.run(
        command,
        env={**_environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def pkcs11_tool(module: Path, pin: Secret, environment: Mapping[str, str], *arguments: str) -> bytes:
    """Run OpenSC's pkcs11-tool, logged in, and return what it wrote to stdout: a second opinion on what a token holds.

    Args:
        module: the module's file.
        pin: the user's PIN.
        environment: the whole of it.
        arguments: what to do, and to which token if the module has several.
    """
    command = [program("pkcs11-tool", package="opensc"), "--module", str(module), "--login", "--pin", "env:TESTS_PIN"]
    done = subprocess.run(
        [*command, *arguments],
        env={**environment, "TESTS_PIN": pin.reveal()},
        capture_output=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"pkcs11-tool {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr.decode()}")
    return done.stdout


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a program running inside the block, its output in a log.

    The kernel ends it when this process dies without leaving the block (prctl(2), PR_SET_PDEATHSIG).
    """
    guarded = [program("setpriv", package="util-linux"), "--pdeathsig", "KILL", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            guarded,
            env={**_environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def children(pid: int) -> list[int]:
    """Return the ids of a process's children, whichever of its threads started them."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_awaited(lock: Path) -> bool:
    """Whether somebody waits for the lock (flock) of a file that another one holds."""
    # proc_locks(5): an arrow has who waits, and the inode is the last of the numbers with colons.
    inode = f":{lock.stat().st_ino} "
    return any(" -> " in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def wait_until(condition: Callable[[], bool], what: str, log: Path, seconds: float = _PATIENCE) -> None:
    """Wait for a condition; fail the run with the program's log when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:.0f} s:\n{log.read_text(errors='replace')}")
        time.sleep(0.01)


def _environment() -> dict[str, str]:
    """This process's environment, without what would lead a system's Python program to this run's packages."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
