"""A shell as a reader has it in front of them: one bash, a command after the other."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_TIME_LIMIT = 300.0  # seconds; installing takes the longest


class Shell:
    """One bash, and whatever it starts in its process group; all of it ends when the block is left.

    Args:
        folder: where it begins.
        environment: all of its environment.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._marker = f"--- {os.urandom(8).hex()}"
        self._unread = ""
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def run(self, command: str) -> tuple[int, str]:
        """Run one command to its end, standard input empty; return its exit status and what was written meanwhile.

        The next command finds the status in ``$?``.
        """
        marker = f"printf '\\n%s %d\\n' '{self._marker}' $status"
        self._send(f"{{ {command}\n}} </dev/null\nstatus=$?; {marker}; (exit $status)\n")
        end = re.compile(rf"\n{self._marker} (\d+)\n")
        self._read_until(lambda: end.search(self._unread) is not None)
        found = end.search(self._unread)
        assert found is not None
        output, self._unread = self._unread[: found.start()], self._unread[found.end() :]
        return int(found[1]), output

    def wait_for(self, seen: Callable[[str], bool]) -> str:
        """Return what is written from now on, as soon as it is what is waited for."""
        self._read_until(lambda: seen(self._unread))
        written, self._unread = self._unread, ""
        return written

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def _read_until(self, enough: Callable[[], bool]) -> None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + _TIME_LIMIT
        rest = b""
        while not enough():
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(descriptor, 65536) if ready else b""
            assert chunk, f"the shell wrote this and no more:\n{self._unread}"
            rest += chunk
            # A chunk may end within a character.
            whole = rest.decode(errors="ignore")
            rest = rest[len(whole.encode()) :]
            self._unread += whole
